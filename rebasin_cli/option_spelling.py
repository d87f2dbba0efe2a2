"""How the library spells an option that a text names as the command line does.

Errors and warnings are raised in the same modules whoever calls them, and name options by their
flags. A caller in Python has no flags, but the keywords of a verb:

    --max-memory 8GB        max_memory='8GB'
    --set heads=4           sizes={'heads': 4}
    --skip 'a' --skip 'b'   skip=['a', 'b']
    --no-fast               fast=False
    --tie keep              `--tie keep` of the command line: no verb has it

Where in a sentence the value of a flag ends is told by its form: quotes, digits, capitals, or one
of the words below. A test holds the tables against the signatures of the verbs.
"""

from __future__ import annotations

import re

# Flags that are keywords of some verb: those that take a value, and those that are on or off.
VALUED = (
    "at base batches buffers combine data density device dtype effort evaluate format input "
    "input-shape jobs key loss max-memory method mode model only order outputs pass-through "
    "permute-buffer ref rename restarts scale seed set skip spec start steps strategy sync-method "
    "to weights width"
)
SWITCHES = (
    "align dequantize drop-rest fast force free-outputs ignore-classes in-place inverse "
    "keep-unknown strict widen"
)
# Keywords with another name than their flag.
RENAMED = {"set": "sizes", "permute-buffer": "buffers", "input": "inputs", "input-shape": "inputs"}
DICTS = {"sizes", "to"}  # keywords that are a dict: the flag's NAME=N is one of its entries
# Values that are plain words. Any other plain word behind a flag goes on with the sentence.
VALUE_WORDS = (
    "activations auto cca cpu cuda dare dare-ties frank-wolfe keep least-squares many mean "
    "model-stock none orthogonal pt quick reset safetensors sinkhorn slerp-n sync task-arithmetic "
    "ties untie weights zipit"
)

_OPTION = re.compile(
    r"(?P<command>rebasin [a-z][^`;,\n]*|`rebasin [^`]*`)"  # for a shell: it stays as it is
    r"|(?<![\w/-])--(?P<no>no-)?(?P<name>[a-z-]+)"
    rf"(?: (?P<value>'[^']*'|(?:{VALUE_WORDS.replace(' ', '|')})\b|\S*?[A-Z0-9=./|]\S*?)"
    r"(?=[:;,)]*(?:\s|$)))?"
)
_REPEATED = re.compile(r"\b(\w+)=('[^']*')((?: \1='[^']*')+)")  # a keyword that is given again
_ADJACENT = re.compile(r"(?<=['\]]) (?=[a-z_]+=)")  # the gap between two keywords side by side


def in_python(text: str) -> str:
    """Return a text with its options spelled as keywords of the library; shell commands stay."""
    spelled = _REPEATED.sub(_as_list, _OPTION.sub(_as_keyword, text))
    return _ADJACENT.sub(", ", spelled)


def _as_list(found: re.Match[str]) -> str:
    more = found[3].replace(f" {found[1]}=", ", ")
    return f"{found[1]}=[{found[2]}{more}]"


def _as_keyword(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if found["command"]:
        return found[0]
    if name in SWITCHES.split():
        switch = f"{name.replace('-', '_')}={not found['no']}"
        return f"{switch} {value}" if value else switch
    if found["no"] or name not in VALUED.split():
        return f"`{found[0]}` of the command line"
    keyword = RENAMED.get(name, name.replace("-", "_"))
    return f"{keyword}=" if value is None else f"{keyword}={_python_value(name, keyword, value)}"


def _python_value(name: str, keyword: str, value: str) -> str:
    """Return a flag's value as Python writes it; a stand-in for one, such as GLOB, stays."""
    if name == "input-shape":
        return f"torch.rand({value.replace(',', ', ')})"
    if name == "input":
        return "tensors"
    if keyword in DICTS:
        size, _, number = value.strip("'").rpartition("=")
        return f"{{{size!r}: {number}}}"
    if re.fullmatch(r"[-\d.]+(,[-\d.]+)+", value):
        return f"[{value.replace(',', ', ')}]"
    is_plain = value[0] == "'" or re.fullmatch(r"[A-Z]+|[-\d.]+", value)
    return value if is_plain else repr(value)

"""Help, versions and names: what the program says of itself, and what README has to say."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from rebasin_cli import __version__
from rebasin_cli.cli.app import command_tree
from tests.cli.harness import ROOT, rebasin

README = (ROOT / "README.md").read_text("utf-8")
PAGES = ("README.md", "COMMANDS.md", "specs/README.md")
OF_ALL, OF_RAY = {"--help"}, {"--head", "--port", "--address", "--block"}
LINES = 300  # of README: what a newcomer reads in ten minutes


def commands(group, words=()):
    """Yield the words and the object of every command, subcommands included."""
    for name, listed in group.commands.items():
        command = group.loaded(name) if name in group.entries else listed
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(commands(command_tree()))
OPTIONS = sorted(
    {
        option
        for command in COMMANDS.values()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
)
SECOND = {
    flag for command in COMMANDS.values() for p in command.params for flag in p.secondary_opts
}


def label(words):
    return "-".join(words)


def options(command):
    return [parameter for parameter in command.params if parameter.opts[0].startswith("-")]


def arguments(command):
    return [parameter for parameter in command.params if not parameter.opts[0].startswith("-")]


def takes_a_value(option):
    return not (option.is_flag or option.count)


def test_the_introspection_finds_the_commands_of_the_contract():
    assert {("align",), ("merge",), ("lerp",), ("apply",), ("verify",)} <= COMMANDS.keys()
    assert {("diff",), ("inspect",), ("spec", "check"), ("spec", "init")} <= COMMANDS.keys()
    assert {"--out", "--dry-run", "--exec", "--no-clobber"} <= set(OPTIONS)


@pytest.mark.parametrize("words", COMMANDS, ids=label)
def test_every_command_has_help_with_an_example(words):
    sentence, _, examples = (COMMANDS[words].help or "").partition("Example")
    assert re.match(r"[A-Z].*[.?]", sentence)
    assert re.search(rf"^ {{4}}.*rebasin {' '.join(words)}\b", examples, re.MULTILINE)


@pytest.mark.parametrize("words", COMMANDS, ids=label)
def test_every_option_of_a_command_says_what_it_does(words):
    for option in options(COMMANDS[words]):
        assert option.help, option.opts
        assert not option.hidden, option.opts


@pytest.mark.parametrize("words", COMMANDS, ids=label)
def test_every_value_has_a_name_that_shows_its_form(words):
    for option in options(COMMANDS[words]):
        if "--help" not in option.opts:
            assert bool(option.metavar) == takes_a_value(option), option.opts


@pytest.mark.parametrize("words", COMMANDS, ids=label)
def test_every_argument_has_a_name_in_the_usage(words):
    for argument in arguments(COMMANDS[words]):
        if argument.metavar != "":  # empty: it takes what belongs to an option, as --parents A B
            assert re.fullmatch(r"[][A-Z |.]+", argument.metavar or ""), argument.opts


@pytest.mark.parametrize("words", COMMANDS, ids=label)
def test_every_command_is_in_the_readme(words):
    assert f"rebasin {' '.join(words)}" in README


def typed():
    """Yield each command that a page or a help shows, and the options that it has there."""
    texts = [(ROOT / page).read_text("utf-8") for page in PAGES]
    texts += [command.help or "" for command in COMMANDS.values()]
    text = "\n".join(texts).replace("\\\n", " ")
    for line in re.findall(r"^ {4}(?:\$ )?.*\brebasin [a-z].*$", text, re.MULTILINE):
        for call in re.findall(r"\brebasin ([a-z][^|;#`]*)", line):
            first, second = (*call.split(), "")[:2]
            words = (first, second) if (first, second) in COMMANDS else (first,)
            yield words, set(re.findall(r" (--[a-z-]+)", call))


def test_all_commands_that_are_shown_have_the_options_they_are_shown_with():
    shown = list(typed())
    assert len(shown) > 150
    for words, given in shown:
        parameters = COMMANDS[words].params
        assert given <= OF_ALL | {flag for p in parameters for flag in (*p.opts, *p.secondary_opts)}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_no_option_that_there_is_not(page):
    text = re.sub("sbatch .*", "", (ROOT / page).read_text("utf-8"))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert named <= {*OPTIONS, *SECOND} | OF_ALL | OF_RAY


def test_the_readme_is_read_in_ten_minutes():
    assert len(README.splitlines()) <= LINES


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("words", [(), ("align",), ("spec", "check")], ids=label)
def test_help_is_on_stdout(tmp_path, words, flag):
    done = rebasin(*words, flag, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "Usage: rebasin" in done.out
    assert "rebasin " in done.out.partition("Example")[2]


@pytest.mark.parametrize("columns", [60, 70])
@pytest.mark.parametrize("words", [(), ("align",), ("merge",)], ids=label)
def test_a_narrow_terminal_cuts_no_option_short(tmp_path, words, columns):
    done = rebasin(*words, "--help", cwd=tmp_path, env={"COLUMNS": str(columns)})
    assert done.code == 0
    assert "…" not in done.out
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.out))
    assert named >= {option.opts[0] for option in options(COMMANDS[words])} if words else named


def test_examples_keep_their_lines(tmp_path):
    done = rebasin("align", "--help", cwd=tmp_path)
    lines = [line.strip(" │") for line in done.lines]
    assert "rebasin align a.safetensors b.safetensors" in lines


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_names_all_that_matters(tmp_path, flag):
    done = rebasin(flag, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"rebasin {__version__} (python 3.")
    assert f"torch {metadata.version('torch')}" in done.out
    assert f"safetensors {metadata.version('safetensors')}" in done.out
    assert f"lapx {metadata.version('lapx')}" in done.out


def test_no_command_is_a_usage_error_that_shows_the_commands(tmp_path):
    done = rebasin(cwd=tmp_path)
    assert done.code == 2
    assert "align" in done.out + done.err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mrege", "merge"),
        ("spec chek", "check"),
        ("align --forse", "--force"),
        ("lerp --alpha", "--at"),
        ("merge --alpha", "--weights"),
        ("merge --gpu", "--device"),
        ("lerp --nothing-like-it", "--help"),
    ],
)
def test_a_slip_is_answered_with_what_may_be_meant(tmp_path, typed, meant):
    done = rebasin(*typed.split(), cwd=tmp_path)
    assert done.code == 2
    assert done.out == ""
    assert meant in re.findall(r"[-\w]+", done.err.replace(typed.split()[-1], ""))


def test_the_exit_codes_of_the_contract_are_in_the_readme():
    sentence = README.partition("Exit codes:")[2].split("\n\n")[0]
    codes = map(int, re.findall(r"\d+", sentence))
    assert sorted(codes) == [0, 1, 2, 3, 4, 5, 70, 130, 141, 143]


def test_the_command_is_installed_under_its_name():
    (entry,) = metadata.entry_points(group="console_scripts", name="rebasin")
    assert entry.value == "rebasin_cli.cli:main"
    assert Path(ROOT / "rebasin_cli" / "cli").is_dir()

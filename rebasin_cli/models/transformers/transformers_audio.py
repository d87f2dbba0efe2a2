"""Ways in which models of transformers take sound, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rebasin_cli.models.transformers.example_size import ExampleSize, TensorMaker
from rebasin_cli.models.trial_run import CPU, normal_noise

AudioForm = Mapping[str, TensorMaker]
BINS = (
    *("num_mel_bins", "n_mels", "input_feat_per_channel", "feature_projection_input_dim"),
    *("feature_size", "input_dim", "num_mel_channels", "feature_dim", "model_in_dim"),
)
SHORT = 32  # frames, where no table of positions asks for more


def mel(frame: ExampleSize) -> torch.Tensor:
    """Return spectra (batch, bins, time): whisper's length is fixed."""
    return normal_noise((frame.batch, frame.heard(*BINS, default=80), _time(frame)))


def frames(frame: ExampleSize) -> torch.Tensor:
    """Return spectra (batch, time, bins)."""
    return normal_noise((frame.batch, 8 * frame.length, frame.heard(*BINS, default=80)))


def clip(frame: ExampleSize) -> torch.Tensor:
    """Return spectra (batch, time, bins) of the length that a position table has."""
    return normal_noise((frame.batch, frame.get("max_length", default=64), frame.heard(*BINS)))


def wave(frame: ExampleSize) -> torch.Tensor:
    """Return waves (batch, time)."""
    return normal_noise((frame.batch, 400 * frame.length))


def channel_wave(frame: ExampleSize) -> torch.Tensor:
    """Return waves (batch, 1, time)."""
    return wave(frame).unsqueeze(1)


def _even_wave(frame: ExampleSize) -> torch.Tensor:
    """Return waves (batch, time) of whole chunks: of 1920, the frame of most codecs."""
    return normal_noise((frame.batch, 1920 * (frame.length - 1)))


def _map(frame: ExampleSize) -> torch.Tensor:
    """Return spectra as images of one channel, (batch, 1, time, bins)."""
    return normal_noise((frame.batch, 1, 256, frame.heard(*BINS, default=64)))


def _time(frame: ExampleSize) -> int:
    return 2 * frame.heard("max_source_positions", "max_position_embeddings", default=SHORT // 2)


def _kept(form: TensorMaker, axis: int) -> TensorMaker:
    """Return how a mask is made that hides nothing of what a maker makes, (batch, time)."""

    def ones(frame: ExampleSize) -> torch.Tensor:
        length = form(frame).shape[axis]
        return torch.ones((frame.batch, length), dtype=torch.int64, device=CPU)

    return ones


def _features(form: TensorMaker, axis: int) -> tuple[AudioForm, ...]:
    """Return a spectrum with each of the masks that models have for it, and alone."""
    mask = _kept(form, axis)
    names = ("input_features_mask", "feature_attention_mask", "audio_attention_mask")
    return tuple({"input_features": form, name: mask} for name in names)


SOUNDS: tuple[AudioForm, ...] = (
    *_features(mel, 2),
    *_features(frames, 1),
    {"input_features": mel},
    {"input_features": frames},
    {"input_features": _map},
    {"input_features": mel, "attention_mask": _kept(mel, 2)},
    {"input_features": frames, "attention_mask": _kept(frames, 1)},
    {"audio_mel": frames, "audio_mel_mask": lambda frame: ~_kept(frames, 1)(frame).bool()},
    {"input_values": channel_wave, "padding_mask": _kept(wave, 1)},
    {"input_values": wave, "padding_mask": _kept(wave, 1)},
    {"input_values": wave},
    {"input_values": channel_wave},
    {"input_values": clip},
    {"input_values": _even_wave},
    {"input_values": lambda frame: _even_wave(frame).unsqueeze(1)},
    {"audio": lambda frame: _even_wave(frame).unsqueeze(1)},
    {"input_features": wave},
)

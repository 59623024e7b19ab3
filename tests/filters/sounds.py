"""Sounds with a known answer. Mono float64 waves; `as_signal` makes the record that filters take."""

import subprocess

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from filters.signals import AudioSignal
from infra.media.child import find_ffmpeg

Wave = NDArray[np.float64]
SAMPLE_RATE_HZ = 48000


def as_signal(*waves: Wave, sample_rate_hz: int = SAMPLE_RATE_HZ) -> AudioSignal:
    """One channel a wave."""
    return AudioSignal(audio_CT=np.stack(waves).astype(np.float32), sample_rate_hz=sample_rate_hz)


def silence(duration_s: float, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Wave:
    return np.zeros(round(duration_s * sample_rate_hz))


def sine(
    frequency_hz: float, duration_s: float, sample_rate_hz: int = SAMPLE_RATE_HZ, phase: float = 0.1
) -> Wave:
    """Full scale."""
    seconds = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    return np.sin(2 * np.pi * frequency_hz * seconds + phase)


def noise(duration_s: float, *, seed: int, slope: float = 0, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Wave:
    """Gaussian noise of RMS 0.1 with power ~ 1/f^slope: 0 white, 1 pink, 2 brown."""
    wave = np.random.default_rng(seed).standard_normal(round(duration_s * sample_rate_hz))
    spectrum = np.fft.rfft(wave)
    wave = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** (slope / 2), len(wave))
    return 0.1 * wave / np.std(wave)


def _vowel(num_samples: int, sample_rate_hz: int, rng: np.random.Generator) -> Wave:
    """Pulses at a gliding pitch through three formants, RMS 0.4 to 1."""
    pitch_hz = rng.uniform(90, 230) * np.linspace(1, rng.uniform(0.85, 1.15), num_samples)
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / sample_rate_hz), prepend=0)
    wave = lfilter([1], [1, -0.96], pulses)
    for low_hz, high_hz, width_hz in ((300, 800, 80), (900, 2200, 110), (2300, 3200, 160)):
        radius = np.exp(-np.pi * width_hz / sample_rate_hz)
        angle = 2 * np.pi * rng.uniform(low_hz, high_hz) / sample_rate_hz
        wave = lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], wave)
    return wave / np.sqrt(np.mean(wave**2)) * rng.uniform(0.4, 1)


def _hiss(num_samples: int, rng: np.random.Generator) -> Wave:
    """High-passed noise, RMS 0.05 to 0.2."""
    wave = lfilter([1, -1], [1], rng.standard_normal(num_samples))
    return wave / np.std(wave) * rng.uniform(0.05, 0.2)


def speech_like(duration_s: float, *, seed: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Wave:
    """Vowels, hisses and pauses of speech; peak 1."""
    rng = np.random.default_rng(seed)
    wave = silence(duration_s, sample_rate_hz)
    position = 0
    while position < len(wave):
        kind = rng.choice(["vowel", "hiss", "pause"], p=[0.65, 0.2, 0.15])
        if kind == "pause":
            position += round(sample_rate_hz * rng.uniform(0.05, 0.35))
            continue
        shortest_s, longest_s = (0.12, 0.3) if kind == "vowel" else (0.05, 0.12)
        num_samples = round(sample_rate_hz * rng.uniform(shortest_s, longest_s))
        sound = _vowel(num_samples, sample_rate_hz, rng) if kind == "vowel" else _hiss(num_samples, rng)
        edge = min(num_samples // 4, round(0.03 * sample_rate_hz))
        fade = np.sin(np.linspace(0, np.pi / 2, edge)) ** 2
        sound[:edge] *= fade
        sound[-edge:] *= fade[::-1]
        room = wave[position : position + num_samples]
        room += sound[: len(room)]
        position += round(0.95 * num_samples)
    return wave / np.abs(wave).max()


def music_like(
    duration_s: float, *, seed: int, notes_per_s: int = 4, sample_rate_hz: int = SAMPLE_RATE_HZ
) -> Wave:
    """Two decaying harmonic notes and a drum at each onset; peak 1."""
    rng = np.random.default_rng(seed)
    wave = silence(duration_s, sample_rate_hz)
    for onset_s in np.arange(0, duration_s, 1 / notes_per_s):
        # Notes are cut after 3 s, when they have decayed by 40 dB.
        room = wave[round(onset_s * sample_rate_hz) :][: 3 * sample_rate_hz]
        seconds = np.arange(len(room)) / sample_rate_hz
        for pitch_hz in 110 * 2 ** (rng.integers(0, 36, 2) / 12):
            for harmonic in range(1, 10):
                decay = np.exp(-seconds * (1.5 + harmonic / 2)) / harmonic
                room += decay * np.sin(2 * np.pi * pitch_hz * harmonic * seconds + rng.uniform(0, 6))
        room += rng.standard_normal(len(room)) * np.exp(-seconds / 0.01)
    return wave / np.abs(wave).max()


def event_like(duration_s: float, *, seed: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Wave:
    """Knocks: a burst and four ringing partials, one to two a second; peak 1."""
    rng = np.random.default_rng(seed)
    wave = silence(duration_s, sample_rate_hz)
    onset_s = rng.uniform(0, 0.5)
    while onset_s < duration_s:
        room = wave[round(onset_s * sample_rate_hz) :][:sample_rate_hz]
        seconds = np.arange(len(room)) / sample_rate_hz
        sound = rng.standard_normal(len(room)) * np.exp(-seconds / 0.02)
        for partial, frequency_hz in enumerate(rng.uniform(150, 3000, 4), 1):
            sound += np.exp(-seconds * partial / 0.1) * np.sin(2 * np.pi * frequency_hz * seconds)
        room += rng.uniform(0.3, 1) * sound * np.minimum(seconds / 0.002, 1)
        onset_s += rng.uniform(0.4, 1.2)
    return wave / np.abs(wave).max()


def babble(num_voices: int, duration_s: float, *, seed: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Wave:
    """Voices at once, equally loud; peak 1."""
    wave = sum(
        speech_like(duration_s, seed=100 * seed + voice, sample_rate_hz=sample_rate_hz)
        for voice in range(num_voices)
    )
    return wave / np.abs(wave).max()


def applause(claps_per_s: int, duration_s: float, *, seed: int, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Wave:
    """Bursts of noise that decay within 10 ms, at random times; peak 1."""
    rng = np.random.default_rng(seed)
    wave = silence(duration_s, sample_rate_hz)
    onsets = rng.integers(0, len(wave), round(claps_per_s * duration_s))
    np.add.at(wave, onsets, rng.uniform(0.3, 1, len(onsets)))
    clap_samples = sample_rate_hz // 100
    clap = rng.standard_normal(clap_samples) * np.exp(-4 * np.arange(clap_samples) / clap_samples)
    wave = fftconvolve(wave, clap)[: len(wave)]
    return wave / np.abs(wave).max()


def clipped(wave: Wave, share: float) -> Wave:
    """The wave with the largest `share` of its samples cut flat, turned down to 0.9."""
    limit = np.quantile(np.abs(wave), 1 - share)
    return np.clip(wave, -limit, limit) / limit * 0.9


def through_aac(signal: AudioSignal, kbps: int = 128) -> AudioSignal:
    """The sound after ffmpeg's AAC."""
    num_channels, rate = signal.audio_CT.shape[0], str(signal.sample_rate_hz)
    ffmpeg = [str(find_ffmpeg()), "-v", "error"]
    coded = subprocess.run(
        [*ffmpeg, "-f", "f32le", "-ar", rate, "-ac", str(num_channels), "-i", "-",
         "-c:a", "aac", "-b:a", f"{kbps}k", "-f", "adts", "-"],
        input=signal.audio_CT.T.astype("<f4").tobytes(), capture_output=True, check=True,
    ).stdout  # fmt: skip
    decoded = subprocess.run(
        [*ffmpeg, "-f", "aac", "-i", "-", "-f", "f32le", "-"], input=coded, capture_output=True, check=True
    ).stdout
    audio_CT = np.frombuffer(decoded, "<f4").reshape(-1, num_channels).T
    return AudioSignal(audio_CT=audio_CT, sample_rate_hz=signal.sample_rate_hz)


def mixed(wave: Wave, noise_wave: Wave, snr_db: float) -> Wave:
    """The wave at RMS 0.1 in noise that is `snr_db` weaker."""
    wave, noise_wave = (part / np.sqrt(np.mean(part**2)) for part in (wave, noise_wave))
    return 0.1 * (wave + noise_wave * 10 ** (-snr_db / 20))

"""Training windows: a function of (seed, index), with right targets, heard alike by teacher and student."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.data.windows import AugmentSpec, WindowMaker
from edgeaudio.errors import DataError
from edgeaudio.spec import FrontendSpec, WindowSpec

PLAIN = AugmentSpec(speeds=(1.0,), reverse=0, splice=0, mix2=0, mix3=0, equalise=0, gain_db=0, silence=0)


class Clips:
    """Three noisy clips of different lengths, three classes."""

    sample_rate = 32_000
    silence_target = np.full(3, 1 / 3, dtype=np.float32)

    def __init__(self, lengths_s=(2.0, 0.3, 1.2)):
        rng = np.random.default_rng(0)
        self.waves = [0.1 * rng.standard_normal(int(s * 32_000)).astype(np.float32) for s in lengths_s]

    def __len__(self):
        return len(self.waves)

    def waveform(self, index):
        return self.waves[index]

    def target(self, index):
        return np.eye(3, dtype=np.float32)[index]


def maker(augment=AugmentSpec(), seed=0, clips=None):  # noqa: B008 (frozen)
    return WindowMaker(Clips() if clips is None else clips, augment, WindowSpec(), FrontendSpec(), seed)


@given(index=st.integers(0, 10_000), seed=st.integers(0, 1000))
def test_a_window_depends_on_seed_and_index_alone(index, seed):
    one, other = maker(seed=seed), maker(seed=seed)
    other.make(index + 1)
    a, b = one.make(index), other.make(index)
    np.testing.assert_array_equal(a.waveform, b.waveform)
    np.testing.assert_array_equal(a.target, b.target)


@given(index=st.integers(0, 3000))
def test_every_window_is_finite_in_range_and_its_target_sums_to_one(index):
    window = maker().make(index)
    assert window.waveform.dtype == np.float32
    assert np.isfinite(window.waveform).all()
    assert np.abs(window.waveform).max() <= 1
    assert window.target.sum() == pytest.approx(1, abs=1e-5)


def test_different_indices_and_seeds_give_different_windows():
    waves = [maker(seed=seed).make(index).waveform for seed in (0, 1) for index in (0, 3)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(waves) for b in waves[:i])


def test_silent_windows_are_marked_and_carry_the_tasks_silence_target():
    windows = [maker(AugmentSpec(silence=1.0)).make(index) for index in range(20)]
    assert all(window.silent and np.abs(window.waveform).max() < 1e-2 for window in windows)
    np.testing.assert_array_equal(windows[0].target, Clips.silence_target)
    assert any(not window.waveform.any() for window in windows)


def test_teacher_and_student_hear_the_same_moment():
    made = maker(PLAIN)
    windows = [made.make(0)]
    heard, resampled = made.teacher_waveforms(windows)[0], made.student_waveforms(windows)[0]
    assert len(resampled) == WindowSpec().n_samples(FrontendSpec())
    assert len(heard) == 2 * len(resampled)
    # The low-passed, decimated teacher audio is the student's, sample by sample: no shift.
    spectrum = np.fft.rfft(heard)
    spectrum[len(spectrum) // 2 - 500 :] = 0
    decimated = np.fft.irfft(spectrum, n=len(heard))[::2]
    inner = slice(500, -500)
    assert np.corrcoef(decimated[inner], resampled[inner])[0, 1] > 0.98
    assert np.corrcoef(decimated[inner][1:], resampled[inner][:-1])[0, 1] < 0.9


def test_windows_come_from_active_parts_of_a_clip_padded_with_silence():
    clips = Clips((10.0, 1.0, 1.0))
    clips.waves[0][: 8 * 32_000] = 0
    made = maker(PLAIN, clips=clips)
    assert all(made.make(3 * k).waveform.any() for k in range(50))


def test_a_room_adds_what_comes_after_a_sound_and_leaves_everything_else():
    clips = Clips((0.3,))
    dry, wet = maker(PLAIN, clips=clips), maker(PLAIN.model_copy(update={"room": 1.0}), clips=clips)
    behind = []
    for index in range(20):
        before, after = dry.make(index), wet.make(index)
        np.testing.assert_array_equal(before.target, after.target)
        rms = [np.sqrt(np.square(w.waveform).mean()) for w in (before, after)]
        assert rms[1] == pytest.approx(rms[0], rel=1e-3)
        end = int(np.flatnonzero(before.waveform)[-1]) + 1
        behind.append(float(np.abs(after.waveform[end:]).max(initial=0)))
        assert not np.abs(after.waveform[: np.flatnonzero(before.waveform)[0]]).max(initial=0) > 1e-6, (
            "before its cause"
        )
    assert max(behind) > 1e-3
    assert len({round(level, 9) for level in behind}) > 10, "one room for all windows"


def test_without_rooms_windows_are_drawn_as_if_there_were_none():
    np.testing.assert_array_equal(maker().make(7).waveform, maker(AugmentSpec(room=1e-12)).make(7).waveform)


def test_no_clips_and_senseless_augmentation_are_refused():
    clips = Clips()
    clips.waves = []
    with pytest.raises(DataError, match="no usable clip"):
        maker(clips=clips)
    with pytest.raises(ValueError, match="mix2"):
        AugmentSpec(mix2=0.7, mix3=0.6)
    with pytest.raises(ValueError, match="speeds"):
        AugmentSpec(speeds=(0.0,))

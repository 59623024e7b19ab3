import json
import pickle
from dataclasses import asdict, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import IntegrityError
from shards.schema import ClipMeta, Sample, StagedMeta, check_key, npy_array, npy_bytes, sample_key
from tests.shards.made_samples import MODELS, make_sample, make_staged_meta

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def test_sample_key_pads_milliseconds_to_eight_digits():
    assert sample_key("ab_c", start_ms=0, end_ms=10_000) == "ab_c-00000000-00010000"


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "a b", "caf\u00e9", "a" * 92, "a\n"])
def test_check_key_refused_character_or_length_raises_integrity_error(key):
    with pytest.raises(IntegrityError, match="sample key"):
        check_key(key)


def test_to_json_bytes_is_sorted_compact_ascii():
    text = make_staged_meta("c").to_json_bytes().decode("ascii")
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert text.startswith('{"channel_id":"UC1","clip_id":"c","end_s":10.0,"frame_rate_fps":8.0,')
    assert '"scores":{"cuts_per_s":0.1,"snr_db":21.5}' in text
    assert "\n" not in text


def test_to_json_bytes_whole_numbers_and_floats_give_the_same_bytes():
    whole = replace(
        make_staged_meta("c"), start_s=0, frame_rate_fps=Fraction(8), scores={"cuts_per_s": 1, "snr_db": 2}
    )
    floats = replace(whole, start_s=0.0, frame_rate_fps=8.0, scores={"snr_db": 2.0, "cuts_per_s": 1.0})
    assert whole.to_json_bytes() == floats.to_json_bytes()


@settings(deadline=None)
@given(title=st.text(), scores=st.dictionaries(st.text(), FINITE), start_s=st.floats(0, 1e6))
def test_from_json_bytes_inverts_to_json_bytes(title, scores, start_s):
    meta = replace(
        make_staged_meta("c"), title=title, scores=scores, start_s=start_s, end_s=start_s + 10
    ).with_embeddings(MODELS)
    again = ClipMeta.from_json_bytes(meta.to_json_bytes())
    assert again == meta
    assert again.to_json_bytes() == meta.to_json_bytes()


@pytest.mark.parametrize("name", sorted(asdict(make_staged_meta("c").with_embeddings(MODELS))))
def test_from_json_bytes_missing_key_raises_integrity_error(name):
    value = json.loads(make_staged_meta("c").with_embeddings(MODELS).to_json_bytes())
    del value[name]
    with pytest.raises(IntegrityError, match=name):
        ClipMeta.from_json_bytes(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_frames", 80.5),
        ("num_frames", True),
        ("num_frames", 0),
        ("start_s", "0"),
        ("start_s", -1.0),
        ("end_s", 0.0),
        ("end_s", 10**400),
        ("title", None),
        ("scores", [1.0]),
        ("scores", {"snr_db": None}),
        ("surprise", 1),
    ],
)
def test_from_json_bytes_wrong_value_raises_integrity_error(name, value):
    fields = {**json.loads(make_staged_meta("c").to_json_bytes()), name: value}
    with pytest.raises(IntegrityError, match=name):
        StagedMeta.from_json_bytes(json.dumps(fields).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{", b'{"start_s": NaN}', b"[" * 100_000])
def test_from_json_bytes_not_an_object_raises_integrity_error(data):
    with pytest.raises(IntegrityError):
        StagedMeta.from_json_bytes(data)


def test_from_json_bytes_staged_json_is_no_sample_json():
    with pytest.raises(IntegrityError, match="clap_weights"):
        ClipMeta.from_json_bytes(make_staged_meta("c").to_json_bytes())


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_staged_meta_non_finite_score_raises_integrity_error(score):
    with pytest.raises(IntegrityError, match=r"scores\.snr_db"):
        replace(make_staged_meta("c"), scores={"snr_db": score})


def test_with_embeddings_adds_the_models_and_nothing_else():
    staged = make_staged_meta("c")
    meta = staged.with_embeddings(MODELS)
    assert meta.models == MODELS
    assert asdict(meta) == {**asdict(staged), **asdict(MODELS)}


def test_clip_meta_pickles():
    meta = make_staged_meta("c").with_embeddings(MODELS)
    assert pickle.loads(pickle.dumps(meta)) == meta


def test_npy_bytes_are_format_one_little_endian_in_c_order():
    array = np.asfortranarray(np.arange(6, dtype=">f2").reshape(2, 3))
    data = npy_bytes(array)
    assert data[:8] == b"\x93NUMPY\x01\x00"
    assert b"'descr': '<f2', 'fortran_order': False, 'shape': (2, 3)" in data
    assert data[-12:] == np.arange(6, dtype="<f2").tobytes()


@pytest.mark.parametrize("alter", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"", lambda d: d[1:]])
def test_npy_array_damaged_bytes_raise_integrity_error(alter):
    with pytest.raises(IntegrityError, match=r"k\.npy"):
        npy_array(alter(npy_bytes(np.ones(4, np.float16))), subject="k.npy")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", "other"),
        ("clip_embedding_ND", np.ones((2, 3), np.float32)),
        ("clip_embedding_ND", np.ones(3, np.float16)),
        ("clip_embedding_ND", np.ones((0, 3), np.float16)),
        ("clap_embedding_D", np.array([np.nan], np.float16)),
        ("clap_embedding_D", np.ones((1, 3), np.float16)),
    ],
)
def test_sample_wrong_key_or_embedding_raises_integrity_error(name, value):
    with pytest.raises(IntegrityError):
        replace(make_sample(0), **{name: value})


def test_from_members_inverts_to_members():
    sample = make_sample(3)
    again = Sample.from_members(sample.key, sample.to_members())
    assert again.to_members() == sample.to_members()
    assert again.meta == sample.meta
    np.testing.assert_array_equal(again.clip_embedding_ND, sample.clip_embedding_ND)


@pytest.mark.parametrize("ext", ["mp4", "flac", "json", "clip.npy", "clap.npy"])
def test_from_members_missing_member_raises_integrity_error(ext):
    members = make_sample(0).to_members()
    del members[ext]
    with pytest.raises(IntegrityError, match=ext):
        Sample.from_members(make_sample(0).key, members)

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samstudent.sam.cache import EmbeddingCache
from samstudent.sam.embedding import Embedding


class Counter:
    """Backend that counts its calls; features depend on the image."""

    name, digest, embedding_digest, preprocessing = "counter", "0" * 64, "0" * 64, "counter-1"

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, image: Any) -> Embedding:
        self.calls += 1
        features = np.random.default_rng(int(image.sum())).normal(size=(1, 256, 8, 8)).astype(np.float32)
        return Embedding(features, image.shape[:2], (128, 64), 128)

    def decode(self, embedding: Any, prompt: Any) -> Any:
        raise NotImplementedError

    decode_many = decode


def image(value: int = 1) -> Any:
    return np.full((20, 10, 3), value, np.uint8)


ENTRY = 256 * 8 * 8 * 2  # bytes of one entry's features


def test_second_call_reads_the_stored_embedding(tmp_path: Path) -> None:
    backend, cache = Counter(), EmbeddingCache(tmp_path)
    first = cache.embed(backend, image())
    second = EmbeddingCache(tmp_path).embed(backend, image())
    assert backend.calls == 1
    np.testing.assert_array_equal(first.features, second.features)
    assert second.features.dtype == np.float32
    np.testing.assert_allclose(first.features, Counter().embed(image()).features, rtol=1e-3, atol=1e-6)
    assert (second.image_size, second.input_size, second.side) == ((20, 10), (128, 64), 128)


def test_get_and_pooled_do_not_compute(tmp_path: Path) -> None:
    backend, cache = Counter(), EmbeddingCache(tmp_path / "made" / "later")
    assert cache.get(backend, image()) is None and cache.pooled(backend, image()) is None
    embedding = cache.embed(backend, image())
    pooled = cache.pooled(backend, image())
    assert pooled is not None and pooled.shape == (256,)
    np.testing.assert_allclose(pooled, embedding.features[0, :, :, :4].mean(axis=(1, 2)), rtol=1e-6)
    assert backend.calls == 1


@pytest.mark.parametrize("attribute", ["name", "embedding_digest", "preprocessing"])
def test_entries_depend_on_the_backend(tmp_path: Path, attribute: str) -> None:
    one, other, cache = Counter(), Counter(), EmbeddingCache(tmp_path)
    setattr(other, attribute, "1" * 64)
    cache.embed(one, image())
    assert cache.get(other, image()) is None


def test_entries_do_not_depend_on_the_decoder(tmp_path: Path) -> None:
    one, other, cache = Counter(), Counter(), EmbeddingCache(tmp_path)
    other.digest = "1" * 64
    cache.embed(one, image())
    assert cache.get(other, image()) is not None


def test_entries_of_earlier_versions_stay_valid(tmp_path: Path) -> None:
    """Their key was the digest of the backend; the encoder of a plain backend has the same digest."""
    content = image()
    key = b"".join(part.encode() + b"\0" for part in ("counter", "0" * 64, "counter-1", "uint8", "(20, 10, 3)"))
    EmbeddingCache(tmp_path).embed(Counter(), content)
    assert [file.stem for file in tmp_path.iterdir()] == [hashlib.sha256(key + content.tobytes()).hexdigest()]


def test_entries_depend_on_image_and_shape(tmp_path: Path) -> None:
    backend, cache = Counter(), EmbeddingCache(tmp_path)
    cache.embed(backend, image())
    assert cache.get(backend, image(2)) is None
    assert cache.get(backend, image().reshape(10, 20, 3)) is None
    assert cache.get(backend, np.asfortranarray(image())) is not None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 5000),
        lambda path: path.write_bytes(b"\x02" + bytes(7) + b"{}"),
    ],
    ids=["truncated", "one bit", "empty", "garbage", "no tensors"],
)
def test_broken_entry_is_recomputed(tmp_path: Path, harm: Any) -> None:
    backend, cache = Counter(), EmbeddingCache(tmp_path)
    good = cache.embed(backend, image())
    (path,) = tmp_path.glob("*.safetensors")
    harm(path)
    assert cache.get(backend, image()) is None and not path.exists()
    harm_again = cache.embed(backend, image())
    np.testing.assert_array_equal(harm_again.features, good.features)
    assert backend.calls == 2 and cache.get(backend, image()) is not None


def test_least_recently_used_entry_is_evicted_first(tmp_path: Path) -> None:
    backend, cache = Counter(), EmbeddingCache(tmp_path, max_bytes=3 * ENTRY + ENTRY // 2)
    for value in (1, 2, 3):
        cache.embed(backend, image(value))
        time.sleep(0.02)
    assert cache.get(backend, image(1)) is not None  # used: now 2 is the oldest
    time.sleep(0.02)
    cache.embed(backend, image(4))
    kept = [value for value in (1, 2, 3, 4) if cache.get(backend, image(value)) is not None]
    assert kept == [1, 3, 4]
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= cache.max_bytes


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    old, fresh = tmp_path / ".tmp-old-x.safetensors", tmp_path / ".tmp-new-x.safetensors"
    for file in (old, fresh):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    EmbeddingCache(tmp_path).embed(Counter(), image())
    assert fresh.exists() and not old.exists()


def test_concurrent_requests_for_one_image_compute_it_once(tmp_path: Path) -> None:
    backend, cache = Counter(), EmbeddingCache(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: cache.embed(backend, image()).features, range(16)))
    assert backend.calls == 1
    assert all(np.array_equal(results[0], other) for other in results)


def test_unwritable_cache_returns_computed_embeddings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    assert EmbeddingCache(file / "cache").embed(Counter(), image()).side == 128
    assert "could not be stored" in caplog.text


WORKER = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_cache import Counter, ENTRY, image
from samstudent.sam.cache import EmbeddingCache
from pathlib import Path
folder, seed = Path(sys.argv[1]), int(sys.argv[3])
backend, rng = Counter(), np.random.default_rng(seed)
cache = EmbeddingCache(folder, max_bytes=4 * ENTRY)
for step in range(150):
    value = int(rng.integers(1, 9))
    got = cache.embed(backend, image(value)).features
    expected = Counter().embed(image(value)).features.astype(np.float16).astype(np.float32)
    assert np.array_equal(got, expected), (step, value)
    if step % 10 == 0:  # vandalise an entry, as a full disk or a killed machine would
        # Not a temporary file: put back after its owner has renamed it, nobody would ever remove it.
        for path in list(folder.glob("[!.]*.safetensors"))[:1]:
            try:
                content = path.read_bytes()
                part = folder / f"{seed}.part"
                part.write_bytes(content[: len(content) // 2])
                part.replace(path)
            except FileNotFoundError:
                pass
print("done")
"""


def test_processes_share_a_folder_with_broken_and_removed_entries(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    arguments = [sys.executable, "-c", WORKER, str(folder), str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen(
            [*arguments, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for i in range(3)
    ]
    for worker in workers:
        out, err = worker.communicate(timeout=300)
        assert worker.returncode == 0 and "done" in out, err
    assert not list(folder.glob(".tmp-*"))
    EmbeddingCache(folder, max_bytes=4 * ENTRY).embed(Counter(), image(200))
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 4 * ENTRY


def test_cached_embedding_gives_the_same_mask(tmp_path: Path, lite: Any) -> None:
    from samstudent.sam.prompts import Prompt

    y, x = np.mgrid[:120, :160]
    truth = ((y - 60) / 35) ** 2 + ((x - 80) / 50) ** 2 <= 1
    picture = np.repeat((60 + 120 * truth).astype(np.uint8)[..., None], 3, axis=2)
    fresh = lite.embed(picture)
    kept = EmbeddingCache(tmp_path).embed(lite, picture)
    masks = [lite.decode(e, Prompt(box=(30, 25, 130, 95))).logits > 0 for e in (fresh, kept)]
    assert (masks[0] != masks[1]).mean() < 1e-3 and masks[0].sum() > 1000
    (entry,) = tmp_path.iterdir()
    assert entry.stat().st_size < 2.2e6


def test_cache_that_does_not_store_returns_the_same_and_leaves_no_file(tmp_path: Path) -> None:
    stored = EmbeddingCache(tmp_path / "a").embed(Counter(), image())
    found = EmbeddingCache(tmp_path / "b", stores=False).embed(Counter(), image())
    np.testing.assert_array_equal(found.features, stored.features)
    assert not (tmp_path / "b").exists()
    backend = Counter()
    EmbeddingCache(tmp_path / "a", stores=False).embed(backend, image())
    assert backend.calls == 0

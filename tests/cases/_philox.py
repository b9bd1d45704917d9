"""Philox4x32-10 in NumPy, and the numbers that a generator's state stands for (see csrc/kernels/random/random.h)."""

import numpy as np

TILE = 64  # words
MASK = np.uint64(0xFFFFFFFF)


def philox(counter, key):
    """Four arrays of counter words (uint64 holding 32 bits each) and two key words -> four arrays of uint32."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            p1 & MASK,
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            p0 & MASK,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c.astype(np.uint32) for c in (c0, c1, c2, c3)]


def words(state, n):
    """The first n words of 32 bits that a kernel draws at this state."""
    seed, offset = (int(v) % 2**64 for v in state)
    tiles = -(-n // TILE)
    counter = np.uint64(offset) * np.uint64(16) + np.arange(16 * tiles, dtype=np.uint64)
    zero = np.zeros_like(counter)
    out = philox((counter & MASK, counter >> np.uint64(32), zero, zero), (seed & 0xFFFFFFFF, seed >> 32))
    return np.stack(out).reshape(4, tiles, 16).transpose(1, 0, 2).reshape(-1)[:n]


def pairs(state, n):
    """The first n numbers of 64 bits: words w and w + 16 of each half tile."""
    tiles = -(-n // 32)
    high, low = words(state, tiles * TILE).reshape(2 * tiles, 2, 16).astype(np.uint64).swapaxes(0, 1)
    return (high << np.uint64(32) | low).reshape(-1)[:n]


def advanced(state, n_words):
    """The state after a kernel that draws this many words."""
    return np.array([state[0], state[1] + -(-n_words // TILE)], np.int64)

"""Mutated input of every kind: only our own errors come out, soon, and no file lands elsewhere.

    python -m tests.fuzzing                        # every target, a minute each
    python -m tests.fuzzing tiff zarr --seconds 600 --seed 7
    python -m tests.fuzzing tiff --seed 7 --case 1234 --keep FOLDER

`mutating` changes bytes and structures, `harness` runs cases in a child with bounds, the other
modules are the targets: `slides`, `texts`, `models`, `results`, `viewer`. A seed makes the same
cases on every machine; case 0 of each target is what it mutates, as it is, which must be accepted.
"""

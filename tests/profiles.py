"""How many examples a property gets: what it asks for in a run of all tests, ten thousand in the `nightly` profile."""

from __future__ import annotations

import os

from hypothesis import settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
NIGHTLY = 10_000

# Everything said: hypothesis has other defaults where CI is set, and a test that passes here must pass there.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=False, database=None)
settings.register_profile("nightly", deadline=None, print_blob=True)
settings.load_profile(PROFILE)


def examples(number: int) -> settings:
    """So many examples; `HYPOTHESIS_PROFILE=nightly`, which `make nightly` sets, takes ten thousand."""
    return settings(max_examples=NIGHTLY if PROFILE == "nightly" else number)

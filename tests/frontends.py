"""The front-ends that a test runs over; native is skipped, with the reason, where it is not built."""

from __future__ import annotations

import pytest

from edgeaudio.frontend.native.stream import why_not_built

needs_native = pytest.mark.skipif(why_not_built() is not None, reason=str(why_not_built()))
FRONTENDS = ["numpy", pytest.param("native", marks=needs_native)]

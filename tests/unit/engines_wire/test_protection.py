from __future__ import annotations

import pytest

from mesh.errors import UsageError
from proxy.engines.options import PoolOptions, Protection
from proxy.engines.wire.protection import Conduct


def test_limits_are_checked() -> None:
    with pytest.raises(UsageError, match=r"protection\.resets_per_second"):
        Protection(resets_per_second=0)
    with pytest.raises(UsageError, match=r"protection\.idle_seconds"):
        Protection(idle_seconds=0)
    with pytest.raises(UsageError, match=r"pool\.max_connections"):
        PoolOptions(max_connections=0)
    with pytest.raises(UsageError, match=r"pool\.connect_seconds"):
        PoolOptions(connect_seconds=0)


@pytest.mark.parametrize("what", ["resets", "control_frames", "empty_frames", "window_updates"])
def test_too_much_of_anything_in_one_second_is_told(what: str) -> None:
    protection = Protection(**{f"{what}_per_second": 3})
    conduct = Conduct()
    for _ in range(3):
        setattr(conduct, what, getattr(conduct, what) + 1)
        assert not conduct.too_much(protection)
    setattr(conduct, what, getattr(conduct, what) + 1)
    assert conduct.too_much(protection) == what.replace("_", " ")
    conduct.forgive()
    assert not conduct.too_much(protection)

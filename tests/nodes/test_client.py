"""`engine=` a client of dask.distributed: what every engine must do, on nodes that are programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmmap
from tests.engines.suite import EngineSuite

pytest.importorskip("distributed")
pytestmark = pytest.mark.unguarded("the client has threads and sockets of its own")


class TestClient(EngineSuite):
    """Two nodes, of two workers each."""

    name = "client"
    shares_memory = False
    is_elsewhere = True
    pickles = True
    runs_ranges = False

    @pytest.fixture
    def engine(self, client: Any) -> Iterator[Any]:
        yield client

    def test_ranges_are_refused(self, engine: Any) -> None:
        with pytest.raises(ValueError, match="pmap_ranges needs shared memory"):
            shmmap.pmap_ranges(lambda start, stop: None, 10, engine=engine)
        x = np.arange(10.0)
        with pytest.raises(ValueError, match="an out that is an input"):
            shmmap.pmap_chunks(np.sqrt, x, out=x, engine=engine)

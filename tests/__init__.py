"""The tests of shmmap."""

import pytest

pytest.register_assert_rewrite("tests.helpers", "tests.engines.suite")

"""What holds for every test: one thread per process, no network, no window, no account."""

from __future__ import annotations

import os

# Set before anything imports numpy's or torch's thread pools. pytest-xdist already fills the cores with
# processes, and results must not depend on how many threads a machine offers.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402  after the environment

import helpers  # noqa: E402
import pytest  # noqa: E402
import pytest_socket  # noqa: E402

from routegym.runners import Runner, open_runner  # noqa: E402


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small complete recordings by kind, see `helpers.saved`."""
    return helpers.saved(tmp_path_factory.getbasetemp() / "recordings")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recorded routing data, which are not shipped: in $ROUTEGYM_DATA, or in shared/data beside the checkout."""
    named = os.environ.get("ROUTEGYM_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; name their folder in ROUTEGYM_DATA")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray of two CPUs on this machine, for all tests of a process; its processes end with it."""
    pytest.importorskip("ray")
    from routegym.runners import start_ray

    pytest_socket.enable_socket()  # Ray's own processes, on this machine
    ray, _ = start_ray(2)
    yield
    ray.shutdown()


@pytest.fixture
def ray(ray_session: None, socket_enabled: None) -> Iterator[Runner]:
    """A runner on it."""
    with open_runner("ray", 2) as runner:
        yield runner

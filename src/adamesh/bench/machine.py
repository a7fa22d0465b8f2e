"""What a benchmark ran on, as far as its numbers depend on it."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
    """A machine, without its name."""

    processor: str
    cores: int
    """That this process may use."""
    memory_gib: float
    system: str
    python: str
    torch: str
    load_before: float
    """Processes that wanted a core, mean of the minute before: others make the numbers worse."""
    gpu: str | None = None
    """Where a GPU is what is measured."""

    @classmethod
    def observed(cls, device: str = "cpu") -> "Machine":
        """This one, now."""
        return cls(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            torch=torch.__version__,
            load_before=round(psutil.getloadavg()[0], 2),
            gpu=torch.cuda.get_device_name() if device == "cuda" else None,
        )

    def line(self) -> str:
        """In words."""
        processors = self.processor if self.gpu is None else f"{self.gpu}, {self.processor}"
        return f"{processors}, {self.cores} cores, {self.system}, torch {self.torch}, load before {self.load_before}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"

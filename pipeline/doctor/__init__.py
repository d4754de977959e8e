"""What would stop a run, or spoil it, said before it begins: the installation, and a run file."""

from pipeline.doctor.checks import examine
from pipeline.doctor.findings import Finding

__all__ = ["Finding", "examine"]

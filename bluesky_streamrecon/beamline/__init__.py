"""What lives in the RunEngine's process: publisher, reconstruction job as a device, suspenders, launcher.

Nothing here imports MPI or Numba. Angles are degrees at the stage and radians on the wire, times seconds.
"""

from bluesky_streamrecon.beamline.configured import make_job, make_launcher
from bluesky_streamrecon.beamline.documents import BLOCK, RunBlock, StreamLayout, read_block, read_descriptor
from bluesky_streamrecon.beamline.job_link import Launcher
from bluesky_streamrecon.beamline.job_state import JobState
from bluesky_streamrecon.beamline.launcher import MpiLauncher, find_mpiexec
from bluesky_streamrecon.beamline.prompt_orders import PromptOrders
from bluesky_streamrecon.beamline.publisher import Publisher, Sink
from bluesky_streamrecon.beamline.recon_job import ReconJob
from bluesky_streamrecon.beamline.run_state import RunState
from bluesky_streamrecon.beamline.run_table import RunTable
from bluesky_streamrecon.beamline.slurm import SlurmLauncher
from bluesky_streamrecon.beamline.steering import Steering
from bluesky_streamrecon.beamline.suspender import BacklogSuspender, QualityReached, QualitySuspender, SuspendMode
from bluesky_streamrecon.run_record import RunRecord, ledger_totals

__all__ = [
    "BLOCK",
    "BacklogSuspender",
    "JobState",
    "Launcher",
    "MpiLauncher",
    "PromptOrders",
    "Publisher",
    "QualityReached",
    "QualitySuspender",
    "ReconJob",
    "RunBlock",
    "RunRecord",
    "RunState",
    "RunTable",
    "Sink",
    "SlurmLauncher",
    "Steering",
    "StreamLayout",
    "SuspendMode",
    "find_mpiexec",
    "ledger_totals",
    "make_job",
    "make_launcher",
    "read_block",
    "read_descriptor",
]

"""Ray Train as the launcher of a stage's processes (``runtime.launch: ray``).

The stage starts the driver, ``python -m pipelines.on_ray PROCESSES DEVICE MODULE [KEY]``. Each
worker of Ray Train starts one process of the stage, in the clone, which all nodes share. If a
worker or its node dies, Ray Train starts all processes again, and a training resumes from its last
training checkpoint. An error of the stage itself is not tried again.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from torch import distributed
from torch.distributed.elastic.utils.distributed import get_free_port

from albef.cluster import connect
from albef.io import dying_with_parent, write_json
from pipelines.stage import LAUNCHED_ON, RANKS, end_file

RESTARTS = 5
"""Number of times that all processes are started again because one of them died."""
POLL_S = 0.2
STOP = "stop"
"""File in the folder of ends that asks all processes to stop."""
OWN = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"}
"""Variables that a process takes from its worker; others, except those of GPUs, come from the
driver."""


def work(plan: dict[str, Any]) -> None:
    """Run one process of the stage in a worker, to which this function is sent by value.

    Raises:
        RuntimeError: the process died, or lost another one.
    """
    ends, rank, port = Path(plan["ends"]), int(os.environ["RANK"]), [get_free_port()]
    for end in ends.glob("rank-*.json") if rank == 0 else ():
        end.unlink()  # of processes before a restart
    distributed.broadcast_object_list(port)  # the port of the workers' own group is taken
    environment = plan["environment"] | {
        name: value
        for name, value in os.environ.items()
        if name in OWN or name.endswith("_VISIBLE_DEVICES")
    }
    environment["MASTER_PORT"] = str(port[0])
    command, stop = dying_with_parent(plan["command"]), ends / STOP
    with (ends / f"{rank}.log").open("a") as log:
        child = subprocess.Popen(command, cwd=plan["folder"], env=environment, stderr=log)
        while child.poll() is None:
            if stop.exists():
                child.terminate()
            time.sleep(POLL_S)
    found = (json.loads(end.read_text()) for end in ends.glob("rank-*.json"))
    if child.returncode and not stop.exists() and all(end["lost"] for end in found):
        raise RuntimeError(f"process {rank} ended with exit code {child.returncode}")


def copy_logs(ends: Path, logs: dict[Path, IO[str]]) -> None:
    """Copy to stderr what the processes have logged since the last call."""
    for path in sorted(ends.glob("*.log")):
        if path not in logs:
            logs[path] = path.open()
        sys.stderr.write(logs[path].read())


def fit(ends: Path, processes: int, device: str, module: list[str]) -> None:
    """Run the processes until all have ended.

    Raises:
        ConnectionError: no cluster responds.
        TrainingFailedError: processes died more than :data:`RESTARTS` times.
    """
    connect()
    signal.signal(signal.SIGTERM, lambda *_: (ends / STOP).touch())  # Ray sets a handler before
    resources = ray.cluster_resources()
    gpu = device != "cpu" and "GPU" in resources
    kind = "GPU" if gpu else "CPU"
    if (there := int(resources.get(kind, 0))) < processes:
        print(f"waiting: the cluster has {kind}s: {there} of {processes}", file=sys.stderr)
    plan = {
        "command": [sys.executable, "-m", *module],
        "ends": str(ends),
        "environment": os.environ | {LAUNCHED_ON: "Ray"},
        "folder": str(Path.cwd()),
    }
    TorchTrainer(
        work,
        train_loop_config=plan,
        scaling_config=ScalingConfig(num_workers=processes, use_gpu=gpu),
        run_config=RunConfig(
            name="ray", storage_path=str(ends), failure_config=FailureConfig(max_failures=RESTARTS)
        ),
        torch_config=TorchConfig(backend="gloo"),  # of the workers, which only share a port
    ).fit()


def main() -> None:
    """Run the processes; write an end file if they cannot be run."""
    processes, device, *module = sys.argv[1:]
    ends, logs = Path(os.environ[RANKS]), dict[Path, IO[str]]()
    logging.disable()  # The stage reports what Ray would log.

    def follow() -> None:
        while True:
            time.sleep(POLL_S)
            copy_logs(ends, logs)

    threading.Thread(target=follow, daemon=True).start()
    message = ""
    try:
        fit(ends, int(processes), device, module)
    except ConnectionError as error:
        message = str(error)
    except TrainingFailedError as error:
        last = str(error).strip().splitlines()[-1]
        message = f"{last}, again after {RESTARTS} restarts; run the stage again to resume"
    if message:
        end = {"code": os.EX_IOERR, "message": message, "lost": False}
        write_json(end_file(ends, int(processes)), end)
    copy_logs(ends, logs)
    raise SystemExit((ends / STOP).exists() or any(ends.glob("rank-*.json")))


if __name__ == "__main__":
    main()

"""The same sweep elsewhere: on a real SLURM that is started here, with results in an S3 that is served here,
and, as far as it goes without a cluster, on Kubernetes."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest
from checkout import Checkout, eventually
from moto.server import ThreadedMotoServer

from vae_workflow.files import folder_for_sockets

RESULT = """from IPython.display import display
import torch
value = torch.randn(1000, generator=torch.Generator().manual_seed(seed)).pow(2).mean().item()
claim = {"sentence": "The mean is near 1.", "value": repr(value), "holds": value < 1.2, "evidence": ""}
display({"text/plain": "a claim", "application/vnd.vae-lab.claim+json": claim}, raw=True)"""
SEEDS = ("-p", "seed=0:3")


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Checkout]:
    """Name -> a checkout with one notebook that computes something from its seed."""

    def make(name: str) -> Checkout:
        (tmp_path / name).mkdir()
        checkout = Checkout(tmp_path / name)
        checkout.notebooks(one=RESULT)
        return checkout

    return make


def table(checkout: Checkout, *words: str) -> list[dict[str, Any]]:
    """The results of all runs, less what tells where they were computed."""
    run = checkout.vae_lab("results", "one", "--json", *words)
    assert run.returncode == 0, run.stderr
    frame = pd.DataFrame(json.loads(run.stdout))
    return frame[["run", "status", "seed", "kind", "name", "value", "number", "holds"]].to_dict("records")


def statuses(checkout: Checkout, *words: str) -> list[str]:
    run = checkout.vae_lab("sweep", "one", *SEEDS, "--json", *words)
    assert run.returncode == 0, run.stderr
    return [run["status"] for run in json.loads(run.stdout)["runs"].values()]


# SLURM

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "scancel")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
MailProg=/bin/true
KillWait=2
ReturnToService=2
MinJobAge=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def folder() -> Iterator[Path]:
    """For SLURM's files, among them sockets, whose paths must be short."""
    with folder_for_sockets(letters=40) as folder:
        yield folder


@pytest.fixture
def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A SLURM of one node, this machine, without accounting: controller, node, and their keys."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if missing:
        pytest.skip(
            f"no SLURM here: {', '.join(missing)} missing (Debian: slurmctld slurmd slurm-client munge)"
        )
    if os.getuid():
        pytest.skip("SLURM's daemons want to be started by root")
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    host, configuration = socket.gethostname().partition(".")[0], folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(host=host, ports=free_ports(2), folder=folder, cpus=os.cpu_count())
    )
    # Snakemake's jobs lose the variable on the way to their inner srun.
    (folder / "bin/srun").write_text(
        f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun", path=path)} "$@"\n'
    )
    (folder / "bin/srun").chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{path}")
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D", "-f", str(configuration)],
        ["slurmd", "-D", "-f", str(configuration), "-N", host],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as log:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            if command[0] == "munged":
                eventually((folder / "munge.socket").exists)
        ready = time.monotonic() + 60
        while subprocess.run(["srun", "-n1", "true"], capture_output=True, timeout=60).returncode:
            if time.monotonic() > ready:
                logs = "".join(p.read_text(errors="replace") for p in sorted(folder.glob("*.out")))
                pytest.fail(f"SLURM did not start:\n{logs}")
            time.sleep(0.5)
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


WITHOUT_ACCOUNTING = (
    "--",
    "--slurm-status-command=squeue",
    "--slurm-init-seconds-before-status-checks=1",
)


def test_a_sweep_on_slurm_has_the_results_of_one_here(
    slurm: None, make: Callable[[str], Checkout], record_property: Callable[[str, object], None]
) -> None:
    start = time.monotonic()
    near, far = make("near"), make("far")
    assert statuses(near) == ["done"] * 3
    slurmed = ("--executor", "slurm", *WITHOUT_ACCOUNTING)
    assert statuses(far, *slurmed) == ["done"] * 3
    log = "".join(path.read_text() for path in (far.folder / ".snakemake/log").glob("*"))
    assert len(set(re.findall(r"SLURM jobid (\d+)", log))) == 3, log
    assert table(far) == table(near)
    assert len({row["value"] for row in table(far)}) == 3
    assert statuses(far, *slurmed) == ["skipped"] * 3
    record_property(
        "figures", f"3 runs on SLURM, with the local numbers, in {time.monotonic() - start:.0f} s"
    )


# S3


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a bucket in an S3 that this process serves."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "test",
        "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"results-{uuid.uuid4()}"  # the servers of one process share their buckets
    boto3.client("s3").create_bucket(Bucket=name)
    yield f"s3://{name}"
    server.stop()


def stored(bucket: str) -> set[str]:
    found = boto3.client("s3").list_objects_v2(Bucket=bucket.removeprefix("s3://"))
    return {item["Key"] for item in found.get("Contents", [])}


def test_results_can_be_kept_in_s3(bucket: str, make: Callable[[str], Checkout]) -> None:
    """Another checkout, and so another machine, finds them there, and has nothing to run."""
    near, first, second = make("near"), make("first"), make("second")
    assert statuses(near) == ["done"] * 3
    kept = ("--storage", f"{bucket}/mine")
    assert statuses(first, *kept) == ["done"] * 3
    names = {f"mine/build/runs/one/notebooks/{run['run']}.ipynb" for run in table(near)}
    assert stored(bucket) == names
    assert first.executed("runs/one") == set(), "they are not in the checkout"
    assert statuses(second, *kept) == ["skipped"] * 3
    assert table(first, *kept) == table(second, *kept) == table(near)


def test_kubernetes_would_run_it(bucket: str, make: Callable[[str], Checkout]) -> None:
    checkout = make("one")
    words = ("sweep", "one", *SEEDS, "--executor", "kubernetes", "--storage", f"{bucket}/k", "--dry-run")
    run = checkout.vae_lab(*words)
    assert run.returncode == 0, run.stderr
    assert "notebook" in run.stderr
    assert stored(bucket) == set()
    refused = checkout.vae_lab(*words[:-3], "--dry-run")
    assert refused.returncode == 2
    assert "--storage" in refused.stderr

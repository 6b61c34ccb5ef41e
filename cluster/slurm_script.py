"""The batch script of a SLURM job: Ray on every node, the job's command on the first."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

NOTICE_SECONDS = 120
"""How long before a time limit or a preemption SLURM says so."""

# One script in three roles, so that no command is quoted twice. A shell's own variables are in
# double quotes; everything from a spec or a cluster file has been through shlex.quote.
_SCRIPT = """\
#!/bin/bash
# Submit it from the folder that it lies in: cd FOLDER && sbatch job.sh
{directives}

set -uo pipefail
port=$((20000 + SLURM_JOB_ID % 10000))

batch() {{
{preparation}
    # The token is the cluster's own: who cannot read this file can neither join nor give it work.
    unset RAY_ADDRESS RAY_AUTH_TOKEN
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/token"
    (umask 077 && rm -f token && od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' > token)
    export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 RAY_USAGE_STATS_ENABLED=0
    HEAD="$(head_address):$port"
    export HEAD

    rm -f exit code driver.pid
    told=
    trap told_to_end TERM
    # A node whose Ray has ended must not end the others.
    srun --export=ALL --wait=0 --cpus-per-task={cpus} bash job.sh node > ray.log 2>&1 &
    step=$!
    while kill -0 "$step" 2>/dev/null; do wait "$step"; done
    rm -f token
    # `ray symmetric-run` ends with 0 where Ray did not start.
    code=$(cat code 2>/dev/null) || code=1
    if [ ! -e driver.pid ] && [ -z "$told" ]; then
        echo "Ray did not start; ray.log ends with" >&2
        tail -n 20 ray.log >&2
    fi
    if [ -n "$told" ] && [ "$code" -ne 0 ]; then
        # At its time limit a job is still RUNNING, and goes on as another run of the same job.
        # What is cancelled or preempted is not, and SLURM itself starts a preempted one again.
        if [ ! -e stop ] && [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then
            scontrol requeue "$SLURM_JOB_ID"
            exit "$code"
        fi
        [ "$code" -eq 130 ] || code=143
    fi
    echo "$code" > exit.part && mv exit.part exit
    exit "$code"
}}

told_to_end() {{
    told=yes
    if [ -s driver.pid ]; then
        # The command alone: it writes down where it is while Ray still runs.
        kill -TERM "$(cat driver.pid)" 2>/dev/null
    else
        kill -TERM "$step" 2>/dev/null
    fi
}}

# A node alone talks to itself. Several find the first by the address that SLURM has for it.
head_address() {{
    if [ "$SLURM_JOB_NUM_NODES" -eq 1 ]; then
        echo 127.0.0.1
        return
    fi
    local name address
    name=$(scontrol show node "$SLURMD_NODENAME" --oneliner | grep -o 'NodeAddr=[^ ]*')
    address=$(getent ahostsv4 "${{name#NodeAddr=}}" | grep -v '^127[.]' | head -n 1)
    [ -n "$address" ] || address=$(hostname -I)
    echo "${{address%% *}}"
}}

node() {{
    # The node is this job's alone; a Ray that a killed run has left here would be in the way.
    ray stop --force
    ray symmetric-run --address "$HEAD" --min-nodes "$SLURM_JOB_NUM_NODES" \
        --num-cpus={cpus} --num-gpus={gpus} -- bash job.sh drive
    # The others would look for the first one for a minute.
    [ "$SLURM_NODEID" -ne 0 ] || scancel --signal=KILL "$SLURM_JOB_ID.$SLURM_STEP_ID"
}}

drive() {{
    export RAY_ADDRESS="$HEAD"
    {command} >> log.txt 2>&1 &
    echo $! > driver.pid.part && mv driver.pid.part driver.pid
    wait $!
    echo $? > code
}}

"${{1:-batch}}"
"""


def job_name(name: str) -> str:
    """What SLURM calls the job."""
    return f"ractd-{name}"


def render(
    name: str,
    command: tuple[str, ...],
    options: Mapping[str, str | int | None],
    *,
    path: str,
    environment: Mapping[str, str],
    secrets: tuple[str, ...],
    modules: tuple[str, ...],
    cpus: int,
    gpus: int,
) -> str:
    """The script. ``options`` are sbatch's own, which hold no blanks; None leaves one out."""
    told: dict[str, Any] = {
        "job-name": job_name(name),
        **options,
        "ntasks-per-node": 1,
        "cpus-per-task": cpus,
        # `ray symmetric-run` refuses a node on which a Ray runs, and ends every Ray of its user
        # there when it is done.
        "exclusive": "",
        "output": "log.txt",
        "open-mode": "append",
        "signal": f"B:TERM@{NOTICE_SECONDS}",
        "requeue": "",
    }
    preparation = [
        *(f"module load {shlex.quote(module)}" for module in modules),
        f'export PATH={shlex.quote(path)}:"$PATH"',
        *(f"export {key}={shlex.quote(value)}" for key, value in environment.items()),
        *(f': "${{{key}:?was not set where the job was submitted}}"' for key in secrets),
    ]
    return _SCRIPT.format(
        directives="\n".join(
            f"#SBATCH --{key}" + (f"={value}" if value != "" else "")
            for key, value in told.items()
            if value is not None
        ),
        preparation="\n".join(f"    {line}" for line in preparation),
        command=shlex.join(command),
        cpus=cpus,
        gpus=gpus,
    )

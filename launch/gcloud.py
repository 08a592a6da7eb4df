"""gcloud's command lines for one TPU VM, as lists of arguments; nothing is run here."""

import argparse
import shlex
from pathlib import Path
from typing import NamedTuple

from launch import machines

# States of a queued resource or of a machine.
READY = ("ACTIVE", "READY")
COMING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "STARTING")


class TpuVm(NamedTuple):
    """A machine with a name, rented as the flags of launch.tpu_vm say: with --now it is there at
    once or refused, else it waits for its turn as a queued resource."""

    name: str
    flags: argparse.Namespace

    def create(self) -> list[str]:
        """Return the command that rents the machine, or with a queued resource asks for it."""
        flags = self.flags
        runtime = flags.runtime or machines.TPU_VMS[flags.accelerator]
        command = self._manage("create")
        if flags.now:
            command.append(f"--version={runtime}")
        else:
            command += [f"--node-id={self.name}", f"--runtime-version={runtime}"]
            command.append(f"--valid-until-duration={flags.queue_hours}h")
        command += [f"--accelerator-type={flags.accelerator}", "--labels=program=radlake"]
        if flags.spot:
            command.append("--spot")
        if flags.internal_ips:
            command.append("--internal-ips")
        for flag in ("network", "subnetwork", "service_account"):
            if value := getattr(flags, flag):
                command.append(f"--{flag.replace('_', '-')}={value}")
        return command

    def state(self) -> list[str]:
        """Return the command that prints the state in one word, such as READY or PREEMPTED."""
        field = "state" if self.flags.now else "state.state"
        return [*self._manage("describe"), f"--format=value({field})"]

    def delete(self) -> list[str]:
        command = self._manage("delete")
        return command if self.flags.now else [*command, "--force"]

    def copy(self, files: list[Path]) -> list[str]:
        """Return the command that copies files into the machine's home folder."""
        copy = self._tpus("tpu-vm", "scp", *map(str, files), f"{self.name}:")
        return [*copy, *self._internal()]

    def ssh(self, *commands: list[str]) -> list[str]:
        """Return the command that runs these commands in the home folder, in order, up to the first
        that fails."""
        # ssh passes one text to the remote shell; quoted, each argument arrives unchanged.
        text = " && ".join(shlex.join(command) for command in commands)
        ssh = self._tpus("tpu-vm", "ssh", self.name)
        return [*ssh, *self._internal(), "--worker=0", f"--command={text}"]

    def _manage(self, verb: str) -> list[str]:
        return self._tpus("tpu-vm" if self.flags.now else "queued-resources", verb, self.name)

    def _tpus(self, *words: str) -> list[str]:
        place = [f"--project={self.flags.project}", f"--zone={self.flags.zone}", "--quiet"]
        return ["gcloud", "compute", "tpus", *words, *place]

    def _internal(self) -> list[str]:
        return ["--internal-ip"] if self.flags.internal_ips else []

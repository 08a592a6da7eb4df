"""gcloud's command lines for one TPU VM, as lists of arguments; nothing is run here."""

import shlex
from pathlib import Path
from typing import NamedTuple

# States of a queued resource or of a machine.
READY = ("ACTIVE", "READY")
COMING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "STARTING")


class TpuVm(NamedTuple):
    name: str
    project: str
    zone: str
    accelerator: str
    runtime: str
    is_queued: bool  # waits for its turn as a queued resource; else it is there at once or refused
    is_spot: bool
    queue_hours: int
    internal_ips: bool
    network: str | None
    subnetwork: str | None
    service_account: str | None

    def create(self) -> list[str]:
        if self.is_queued:
            command = self._tpus("queued-resources", "create", self.name)
            command += [f"--node-id={self.name}", f"--runtime-version={self.runtime}"]
            command.append(f"--valid-until-duration={self.queue_hours}h")
        else:
            command = self._tpus("tpu-vm", "create", self.name)
            command.append(f"--version={self.runtime}")
        command += [f"--accelerator-type={self.accelerator}", "--labels=program=radlake"]
        command += ["--spot"] * self.is_spot + ["--internal-ips"] * self.internal_ips
        for flag in ("network", "subnetwork", "service_account"):
            if value := getattr(self, flag):
                command.append(f"--{flag.replace('_', '-')}={value}")
        return command

    def state(self) -> list[str]:
        """Return the command that prints the state in one word, such as READY or PREEMPTED."""
        if self.is_queued:
            describe = self._tpus("queued-resources", "describe", self.name)
            return [*describe, "--format=value(state.state)"]
        return [*self._tpus("tpu-vm", "describe", self.name), "--format=value(state)"]

    def delete(self) -> list[str]:
        if self.is_queued:
            return [*self._tpus("queued-resources", "delete", self.name), "--force"]
        return self._tpus("tpu-vm", "delete", self.name)

    def copy(self, files: list[Path]) -> list[str]:
        """Return the command that copies files into the machine's home folder."""
        paths = [str(path) for path in files]
        return [*self._tpus("tpu-vm", "scp", *paths, f"{self.name}:"), *self._internal()]

    def ssh(self, *commands: list[str]) -> list[str]:
        """Return the command that runs these in the home folder, one after the other until one
        fails."""
        # ssh passes one text to the remote shell; quoted, each argument arrives unchanged.
        text = " && ".join(shlex.join(command) for command in commands)
        ssh = self._tpus("tpu-vm", "ssh", self.name)
        return [*ssh, *self._internal(), "--worker=0", f"--command={text}"]

    def _tpus(self, *words: str) -> list[str]:
        place = [f"--project={self.project}", f"--zone={self.zone}", "--quiet"]
        return ["gcloud", "compute", "tpus", *words, *place]

    def _internal(self) -> list[str]:
        return ["--internal-ip"] * self.internal_ips

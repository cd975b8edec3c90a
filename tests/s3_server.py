"""A real S3 server for tests: OpenStack Swift with its s3api, started once per session on free ports.

Swift signs, lists, splits and refuses as the real service does: a wrong secret, a second conditional
writer and an upload that was never completed behave here as they do there.
"""

import configparser
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from turbosparse.artifacts.endpoint import endpoint_environment

ACCESS_KEY, SECRET_KEY, REGION, BUCKET = "test:tester", "testing-secret", "us-east-1", "turbosparse"
SECONDS_TO_START = 240.0
STORAGE_SERVERS = ("account", "container", "object")
PROXY_PIPELINE = "catch_errors proxy-logging listing_formats bulk s3api tempauth slo dlo proxy-server"

# Swift brings its own threads along: a process of its own keeps them out of the tests'.
WRITE_RINGS = """
import sys
from swift.common.ring import RingBuilder

for path, port in (ring.rsplit(":", 1) for ring in sys.argv[1:]):
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=1)
    device = {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "device": "d1", "meta": ""}
    address = {"ip": "127.0.0.1", "port": int(port)}
    builder.add_dev(device | address | {f"replication_{key}": value for key, value in address.items()})
    builder.rebalance()
    builder.get_ring().save(path)
"""

RUN_SERVER = """
import importlib, signal, sys
from turbosparse.processes import die_with_parent

die_with_parent(signal.SIGKILL)
importlib.import_module(sys.argv.pop(1)).main()
"""
SERVERS = {
    "account": "swift.account.server",
    "container": "swift.container.server",
    "object": "swift.obj.server",
    "proxy": "swift.proxy.server",
}


@dataclass
class S3Server:
    """Four processes over one folder. It can be stopped and started again: what it holds stays."""

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self.ports['proxy']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to talk to it."""
        credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        return endpoint_environment(self.endpoint) | credentials | {"AWS_DEFAULT_REGION": REGION}

    def client(self):
        """Returns a boto3 client."""
        import boto3  # noqa: PLC0415 - most test sessions need neither
        from botocore.config import Config  # noqa: PLC0415

        # Tests know what they expect: one attempt.
        config = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"})
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        return boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION, config=config, **keys)

    def start(self) -> None:
        """Starts the processes and waits until a bucket can be listed."""
        for server, module in SERVERS.items():
            configuration = self.folder / f"{server}.conf"
            with (self.folder / f"{server}.log").open("ab") as log:
                command = [sys.executable, "-c", RUN_SERVER, module, configuration, "--verbose"]
                self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        self._wait()

    def stop(self) -> None:
        """Ends the processes at once, as a power cut does."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def _wait(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                self.client().list_buckets()
                return
            except (BotoCoreError, ClientError) as error:
                logs = "".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log")))
                ended = [process.args for process in self._processes if process.poll() is not None]
                assert not ended, f"the S3 server did not start: {ended}\n{logs}"
                assert time.monotonic() < deadline, f"the S3 server does not answer: {error}\n{logs}"
                time.sleep(0.2)


@pytest.fixture(scope="session")
def swift(tmp_path_factory) -> Iterator[S3Server]:
    """The running server with an empty bucket named `turbosparse`."""
    server = S3Server(tmp_path_factory.mktemp("swift"))
    server.ports |= {name: _free_port() for name in SERVERS}
    _configure(server)
    try:
        server.start()
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3(swift, monkeypatch, request) -> str:
    """A URI of its own on the server, which this process's environment leads to."""
    from s3fs import S3FileSystem  # noqa: PLC0415

    for name, value in swift.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # instances remember the environment they were made in
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').rstrip(']')}"


def _configure(server: S3Server) -> None:
    folder = server.folder
    devices = folder / "devices"
    (devices / "d1").mkdir(parents=True)
    hashing = {"swift_hash_path_prefix": "turbo", "swift_hash_path_suffix": "sparse"}
    policy = {"name": "one-copy", "default": "yes"}
    _write_conf(folder / "swift.conf", {"swift-hash": hashing, "storage-policy:0": policy})
    common = {
        "bind_ip": "127.0.0.1",
        "swift_dir": str(folder),
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "workers": "0",
        "log_level": "WARNING",
    }
    disk = {"devices": str(devices), "mount_check": "false", "disable_fallocate": "true"}
    for name in STORAGE_SERVERS:
        sections = {
            "DEFAULT": common | disk | {"bind_port": str(server.ports[name])},
            "pipeline:main": {"pipeline": f"{name}-server"},
            f"app:{name}-server": {"use": f"egg:swift#{name}"},
        }
        _write_conf(folder / f"{name}.conf", sections)
    rings = [f"{folder}/{name}.ring.gz:{server.ports[name]}" for name in STORAGE_SERVERS]
    subprocess.run([sys.executable, "-c", WRITE_RINGS, *rings], check=True)
    _write_conf(folder / "proxy.conf", _proxy_sections(common | {"bind_port": str(server.ports["proxy"])}))


def _proxy_sections(defaults: dict[str, str]) -> dict[str, dict[str, str]]:
    account, user = ACCESS_KEY.split(":")
    options = {
        "proxy-server": {"allow_account_management": "true", "account_autocreate": "true"},
        "s3api": {"location": REGION, "s3_acl": "false"},
        "tempauth": {f"user_{account}_{user}": f"{SECRET_KEY} .admin"},
    }
    sections = {"DEFAULT": defaults, "pipeline:main": {"pipeline": PROXY_PIPELINE}}
    for name in PROXY_PIPELINE.split():
        kind, egg = ("app", "proxy") if name == "proxy-server" else ("filter", name.replace("-", "_"))
        sections[f"{kind}:{name}"] = {"use": f"egg:swift#{egg}"} | options.get(name, {})
    return sections


def _write_conf(path: Path, sections: dict[str, dict[str, str]]) -> None:
    parser = configparser.RawConfigParser()
    parser.optionxform = str
    parser.read_dict(sections)
    with path.open("w", encoding="utf-8") as file:
        parser.write(file)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port

"""A real PostgreSQL for tests, of Debian's packages: installed, or fetched and unpacked beside the test."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

INSTALLED = Path("/usr/lib/postgresql")
PASSWORD = "postgres-secret-for-tests"
SECONDS_TO_START = 60.0


@dataclass(frozen=True)
class Binaries:
    """PostgreSQL's programs."""

    folder: Path
    libraries: Path | None = None
    """Where what they link to was unpacked."""

    @property
    def environment(self) -> dict[str, str]:
        """What the programs need to start."""
        found = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        return found | ({"LD_LIBRARY_PATH": str(self.libraries)} if self.libraries else {})

    def start(self) -> str | None:
        """Returns the server's version; None: it can't run here."""
        command = [self.folder / "postgres", "--version"]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False)
        return done.stdout.strip() if done.returncode == 0 else None


def find_binaries(scratch: Path) -> Binaries | None:
    """Returns Debian's PostgreSQL, fetched where it is not installed; None: it can't be had."""
    installed = sorted(INSTALLED.glob("*/bin/postgres"))
    found = Binaries(installed[-1].parent) if installed else fetch_binaries(scratch)
    return found if found is not None and found.start() else None


def fetch_binaries(scratch: Path) -> Binaries | None:
    """Unpacks Debian's packages below `scratch`; nothing is installed."""
    if not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb"))):
        return None
    package = _server_package()
    (scratch / "partial").mkdir(parents=True)
    fetch = ["apt-get", "--yes", "--download-only", "--reinstall", "--no-install-recommends"]
    place = ["-o", f"Dir::Cache::archives={scratch}", "-o", "APT::Sandbox::User=root"]
    command = [*fetch, *place, "install", str(package), "libpq5"]
    if package is None or subprocess.run(command, check=False).returncode:
        return None
    root = scratch / "root"
    for archive in scratch.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)
    programs = next(root.glob("usr/lib/postgresql/*/bin"), None)
    libraries = next((path.parent for path in root.glob("usr/lib/*/libpq.so.5")), None)
    return Binaries(programs, libraries) if programs else None


def _server_package() -> str | None:
    asked = ["apt-cache", "depends", "--important", "postgresql"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    names = [line.rpartition(" ")[2] for line in done.stdout.splitlines() if "Depends: postgresql-" in line]
    return next((name for name in names if name.rpartition("-")[2].isdigit()), None)


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Postgres:
    """One server with an empty database, reachable on this machine with a password."""

    binaries: Binaries
    folder: Path
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """The database, as Prefect wants it."""
        return f"postgresql+asyncpg://prefect:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def _user(self) -> str | None:
        """The server refuses to run as root."""
        if os.getuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in names else "nobody"

    def initialise(self) -> None:
        """Makes the database's files."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self._user is not None:
            for path in (self.folder, secret):
                shutil.chown(path, self._user)
        options = ["--username=prefect", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
        self._run("initdb", f"--pgdata={self.folder / 'data'}", "--encoding=UTF8", "--no-locale", *options)

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the server and waits until it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [self.binaries.folder / "postgres", "-D", self.folder / "data", *options]
        with (self.folder / "log").open("wb") as log:
            server = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.binaries.environment, cwd="/", user=self._user
            )
        deadline = time.monotonic() + SECONDS_TO_START
        while not self._is_ready():
            assert server.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)
        return server

    def query(self, sql: str) -> list[str]:
        """Returns the rows of a query, columns separated by `|`."""
        words = ["--no-psqlrc", "--tuples-only", "--no-align", f"--port={self.port}", "--host=127.0.0.1"]
        done = self._run("psql", *words, "--username=prefect", "--dbname=postgres", f"--command={sql}")
        return done.stdout.splitlines()

    def dump(self) -> str:
        """Returns all that the database holds."""
        words = (f"--port={self.port}", "--host=127.0.0.1", "--username=prefect", "--dbname=postgres")
        return self._run("pg_dump", *words).stdout

    def _is_ready(self) -> bool:
        words = (f"--port={self.port}", "--host=127.0.0.1")
        return self._run("pg_isready", *words, check=False).returncode == 0

    def _run(self, program: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = self.binaries.environment | {"PGPASSWORD": PASSWORD}
        command = [self.binaries.folder / program, *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd="/", user=self._user, check=False
        )
        assert done.returncode == 0 or not check, done.stderr
        return done


@contextmanager
def running_postgres(binaries: Binaries) -> Iterator[Postgres]:
    """Gives a fresh server; it ends with the block, and its files with it."""
    # Not below pytest's folder, which another user may not enter.
    with tempfile.TemporaryDirectory(prefix="turbosparse-postgres-") as folder:
        postgres = Postgres(binaries, Path(folder))
        postgres.initialise()
        server = postgres.start()
        try:
            yield postgres
        finally:
            server.terminate()
            server.wait()

"""Cluster: workers on other machines, by dask's scheduler; see docs/scale.md."""

import logging
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import joblib

import abatch
from abatch import files
from abatch.config import Environment
from abatch.errors import AbatchError, ConfigError, RegistryError
from abatch.modelling import code, libraries
from abatch.modelling.workers import Pool, Reply, count_workers, own_loky
from abatch.night import Night

CONNECT_SECONDS = 10  # for the scheduler to answer, which may be starting again
WORKERS_SECONDS = 30  # for a first worker to be there
CHECK_SECONDS = 60  # without an answer, after which it is asked whether anybody is at work
LOGGERS = ("distributed", "tornado", "asyncio")  # of dask, which would print
logger = logging.getLogger("abatch")


class Software(NamedTuple):
    """What predictions depend on.

    Attributes
    ----------
    versions : of libraries and Python, by name; None of what is not installed
    code : hashes of abatch's code and of the user's modules, by their estimators' import paths;
        None of estimators that a library has
    """

    versions: Mapping[str, str | None]
    code: Mapping[str, str | None]


class ClusterPool(Pool):
    """The workers of a scheduler, which gives what a lost one was at to another, three times.

    What they are sent has no database login. It is kept by the scheduler, so that it can be sent
    again, to workers that come later, too.
    """

    def __init__(
        self, work: Callable[[Any], Any], environment: Environment, software: Software
    ) -> None:
        super().__init__()
        self.place = f"{environment.place}.scheduler"
        self.client = connect(environment, software)
        self.addresses = set(self.client.ncores())
        self.n_workers = len(self.addresses)
        self.executor = self.client.get_executor(pure=False)
        # A task rather than scattered data, of which dask keeps one copy, which may be lost.
        content = pickle.dumps(_Guarded(software, pickle.dumps(work, 5)), 5)
        self.sent = self.client.submit(bytes, content, pure=False)

    def wait(self, future: Future[Reply]) -> Reply:
        """What a worker answers."""
        while True:
            try:
                return future.result(CHECK_SECONDS)
            except TimeoutError:
                self._require_workers()
            except CancelledError:
                raise AbatchError(
                    f"{self.place}: the connection to dask's scheduler was lost. Nothing was"
                    " published. See whether it runs, and run the job again."
                ) from None
            except Exception as error:  # none of the work's own, which replies with its errors
                raise AbatchError(
                    f"{self.place}: dask's workers failed ({_tell(error)}). Nothing was published."
                    " See their logs; if their memory was short, take fewer chunk_rows."
                ) from error

    def _require_workers(self) -> None:
        if self.client.status == "running":
            _require_workers(self.client, self.place)

    def close(self) -> None:
        """Leave the cluster, and tell of workers that it has lost."""
        is_there = self.client.status == "running"
        lost = self.addresses - set(self.client.ncores()) if is_there else set()
        if lost:
            logger.warning(
                "%s: workers were lost, and what they were at was done again: %s",
                self.place,
                ", ".join(sorted(lost)),
            )
        self.executor.shutdown(wait=False)
        self.client.close()


def connect(environment: Environment, software: Software) -> Any:
    """A client of the environment's scheduler, whose workers all have the same software.

    Raises
    ------
    ConfigError
        If dask is not installed here.
    AbatchError
        If the scheduler does not answer, or has no workers or others.
    """
    place, client = f"{environment.place}.scheduler", _open_client(environment)
    try:
        _require_workers(client, place)
        for worker, answer in client.run(compare, software, on_error="return").items():
            if isinstance(answer, Exception):
                answer = f"cannot run abatch ({_tell(answer)})"
            if answer:
                raise AbatchError(
                    f"{place}: the worker {worker} {answer}, so nothing is sent there. Give workers"
                    " the same requirements.lock, abatch and modules as here, and start them anew."
                )
    except BaseException:
        client.close()
        raise
    return client


def _open_client(environment: Environment) -> Any:
    """A client, or an error and nothing left half open.

    That would wait a minute for itself at the end of the process, and print a traceback.
    """
    try:
        import distributed
    except ImportError:
        raise ConfigError(
            f"{environment.place}.backend: found 'dask', which is not installed here. Install it,"
            " and where its scheduler and workers run: pip install 'abatch[dask]'; or take loky."
        ) from None

    base: Any = distributed.Client

    class WholeClient(base):  # type: ignore[misc]
        def start(self, **options: Any) -> None:
            try:
                super().start(**options)
            except BaseException:
                self.close()
                raise

    for name in {*LOGGERS, *(name for name in logging.root.manager.loggerDict)}:
        if name.startswith(LOGGERS):  # into the job's log, and not into cron's mail
            of_dask = logging.getLogger(name)
            of_dask.handlers[:] = logger.handlers
            of_dask.propagate = False
    address = str(environment.scheduler)
    try:
        return WholeClient(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # of dask's, of the network's, of TLS
        raise AbatchError(
            f"{environment.place}.scheduler: dask's scheduler does not answer at {address}"
            f" ({_explain(error, address)}). Start it, name its address, and see whether a firewall"
            " is between."
        ) from None


def _explain(error: Exception, address: str) -> str:
    """Why there is no connection; of a long wait dask tells nothing else."""
    if isinstance(error, OSError):
        parts = urlsplit(address)
        try:
            socket.create_connection((parts.hostname, parts.port), timeout=1).close()
        except OSError as reason:
            return f"{_tell(reason)}, for {CONNECT_SECONDS} s"
    return _tell(error)


def _require_workers(client: Any, place: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except TimeoutError:
        raise AbatchError(
            f"{place}: dask's scheduler has no workers. Nothing was published. Start some"
            " (dask worker ADDRESS --nthreads 1), and run the job again."
        ) from None


@contextmanager
def spread(night: Night, estimators: Iterable[str]) -> Iterator[None]:
    """Let the environment's workers fit what scikit-learn fits by joblib.

    That is the members of a search, folds and trees of which an estimator's own n_jobs says
    nothing.

    Parameters
    ----------
    estimators : import paths

    Raises
    ------
    AbatchError
        If the scheduler is lost, or workers are again and again.
    """
    environment = night.experiment.environment
    if environment.backend == "dask":
        client = connect(environment, describe(libraries.find_libraries(), estimators))
        try:
            with joblib.parallel_config(backend="dask", client=client):
                yield
        except ConfigError as error:  # of an estimator, which cannot do anything about it
            cause = error.__cause__
            if not type(cause).__module__.startswith("distributed"):
                raise
            raise AbatchError(
                f"{environment.place}.scheduler: dask's scheduler or its workers failed while a"
                f" model was fitted ({_tell(cause)}). No model was kept. See whether they run, and"
                " their logs; if their memory was short, give them more."
            ) from cause
        finally:
            client.close()
    elif (n_workers := count_workers(night)) > 1:
        own_loky()
        with joblib.parallel_config(n_jobs=n_workers):
            yield
    else:
        yield


def describe(names: Iterable[str], estimators: Iterable[str]) -> Software:
    """What must be the same here and there, as it is here.

    Parameters
    ----------
    names : of libraries, and python
    estimators : import paths
    """
    versions = {name: libraries.find_version(name) for name in (*names, "dask", "distributed")}
    sources = {path: code.find_source(path) for path in estimators}
    hashes = {path: _hash(file.read_bytes()) if file else None for path, file in sources.items()}
    return Software(versions, {"abatch": _hash_abatch(), **hashes})


@cache
def _hash_abatch() -> str:
    sources = sorted(Path(abatch.__file__).parent.rglob("*.py"))
    return _hash(b"".join(path.read_bytes() for path in sources))


def _hash(content: bytes) -> str:
    return files.hash_bytes(content)[:12]


def compare(here: Software) -> str:
    """On a worker: what differs there, in words; empty if nothing does."""
    there = describe([*here.versions], [path for path in here.code if path != "abatch"])
    differences = [
        f"{name} {parts_there.get(name) or '(none)'} (here {part or 'none'})"
        for parts, parts_there in zip(here, there, strict=True)
        for name, part in parts.items()
        if parts_there.get(name) != part
    ]
    return f"has {', '.join(differences)}" if differences else ""


class _Guarded:
    """Work that is not opened where the software is another."""

    def __init__(self, software: Software, content: bytes) -> None:
        self.software, self.content = software, content

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_if_same, (self.software, self.content)


def _open_if_same(software: Software, content: bytes) -> Any:
    if difference := compare(software):
        raise RegistryError(
            f"a worker of dask {difference}, so models were not opened there. Nothing was"
            " published. Give workers the same requirements.lock, abatch and modules as here."
        )
    return pickle.loads(content)


def _tell(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0].rstrip('.')}"

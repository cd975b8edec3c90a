"""A run without a worker: nobody reports its death."""

import time

from prefect import flow


@flow(name="sleeper", flow_run_name="zombie")
def sleeper() -> None:
    """Sleeps until it is killed."""
    print("asleep", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    sleeper()

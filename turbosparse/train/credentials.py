"""Keys that training needs, tried before anything is launched."""

import httpx

from turbosparse.config import WandbConfig
from turbosparse.errors import ConfigError

SECONDS_TO_ANSWER = 10


def check_wandb(wanted: WandbConfig | None) -> None:
    """Logs in at W&B where a run is to be tracked online; the key is neither shown nor stored.

    Where W&B can't be reached the key is not tried: training starts, and keeps its figures.

    Raises:
        ConfigError: There is no key, or W&B refuses it.
    """
    if wanted is None or wanted.mode == "offline":
        return
    import wandb  # noqa: PLC0415 - a second, and most runs have none

    remedy = "set WANDB_API_KEY, or track offline (training.wandb.mode: offline)"
    try:
        has_key = wandb.login(prompt=False, verify=_answers(wandb.setup().settings.base_url))
    except wandb.errors.AuthenticationError as error:
        # The message names the reason, never the key.
        raise ConfigError("WANDB_API_KEY", "refused", f"a key that W&B accepts ({error})", remedy) from None
    finally:
        # The ranks would share its own process: one that dies leaves the run in use there, and the
        # next attempt can't open it.
        wandb.teardown()
    if not has_key:
        raise ConfigError("WANDB_API_KEY", None, "a key of W&B", remedy)


def _answers(url: str) -> bool:
    try:
        httpx.head(url, timeout=SECONDS_TO_ANSWER)
    except httpx.TransportError:
        return False
    return True

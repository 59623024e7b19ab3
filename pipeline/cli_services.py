"""What the commands of `avgen` that run flows start before they do."""

import os


def prepare_services() -> None:
    """Settings of Prefect and Ray that suit a command line; what the user has set stays."""
    defaults = {
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # Ray says that it has read this one, whatever its value; without it there is more of the kind.
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def start_ray(num_cpus: int | None) -> None:
    """Let Ray start while Prefect does; the flow waits for it."""
    from pipeline.ray_adapter import start_ray_beside

    start_ray_beside(num_cpus)

"""What an error of an object store means: who must act, in one line, without what must stay secret.

The libraries' messages run over lines and quote addresses, which may be signed, and what the store answered.
"""

import re

from infra.errors import ConfigError, StorageUnavailable

# Line breaks, and how a library that uses obstore's draws a chain of errors.
_DECORATION = re.compile(r"(?:\x1b\[[0-9;]*m|\u21b3|\s)+")
_ADDRESS = re.compile(r"https?://\S+")
# Where no waiting will help. Source: Amazon S3 API reference, "Error responses".
_ANSWERS_FOR_OPERATOR = re.compile(
    r"code:? +40[13]\b|NoSuchBucket|InvalidBucketName|ContainerNotFound|PermanentRedirect"
    r"|AuthorizationHeaderMalformed|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|RequestTimeTooSkewed"
    r"|builder error|[Cc]redential"
)
# Asked when the environment holds no credentials. Source: object_store 0.13, credential providers.
_ASKED_FOR_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google\.internal|/latest/api/token")


def store_error(err: Exception, *, name: str, num_retries: int) -> ConfigError | StorageUnavailable:
    """The error to raise for one of obstore, or of a library that asks object stores in the same way.

    Args:
        name: URL of what was asked for.
        num_retries: how often a request is asked again.
    """
    asked, _, answer = _DECORATION.sub(" ", str(err)).partition(" Debug source:")[0].rpartition(" - ")
    found = _short(answer)
    if _ANSWERS_FOR_OPERATOR.search(answer) or _ASKED_FOR_CREDENTIALS.search(asked):
        return ConfigError(
            f"a store must be there and let us in, got {found} ({name}); check the bucket's name, its"
            " region and endpoint, and the credentials in the environment"
        )
    return StorageUnavailable(
        f"a store must answer within {num_retries} retries, got {found} ({name});"
        " run the same command again when it does"
    )


def _short(answer: str) -> str:
    """An answer without its body, but with the code that the body gives."""
    line, _, body = answer.partition("<")
    code = re.search(r"<Code>(\w+)</Code>", f"<{body}")
    line = _ADDRESS.sub("its address", line).strip(" :")
    return f"{line} ({code[1]})" if code else line

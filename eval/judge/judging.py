"""Asking the judge whatever is not known yet, several requests at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from tqdm.auto import tqdm

from .endpoint import Endpoint, StoppedError
from .inquiries import Inquiry
from .judgements import Judgement, JudgementStore
from .options import InquiryRefusedError


def judge(inquiries: Iterable[Inquiry], endpoint: Endpoint, store: JudgementStore, parallel: int) -> list[str]:
    """Ask what the store lacks, and keep every judgement as soon as it is there.

    Args:
        inquiries: what is to be asked; the same text is asked once.
        endpoint: who is asked.
        store: what is known already.
        parallel: requests at a time.

    Returns:
        What the endpoint said of inquiries that it refused.

    Raises:
        JudgeError: if the endpoint cannot be used; what was under way before is kept.
    """
    by_digest = {inquiry.digest: inquiry for inquiry in inquiries}
    limit = endpoint.options.max_tokens
    missing = [inquiry for digest, inquiry in by_digest.items() if not store.knows(digest, limit)]
    refused = []
    with (
        ThreadPoolExecutor(parallel) as executor,
        tqdm(initial=len(by_digest) - len(missing), total=len(by_digest), unit="judgement") as progress,
    ):
        asked = {executor.submit(endpoint.ask, inquiry): inquiry for inquiry in missing}
        try:
            for answer in as_completed(asked):
                progress.set_postfix_str(asked[answer].prompt)
                try:
                    _keep(asked[answer], answer, limit, store)
                except InquiryRefusedError as error:
                    refused.append(str(error))
                except StoppedError:  # because of an error that is still to come
                    continue
                progress.update()
        except BaseException:
            endpoint.stop()
            executor.shutdown(cancel_futures=True)
            for answer, inquiry in asked.items():
                if not answer.cancelled() and answer.exception() is None:
                    _keep(inquiry, answer, limit, store)
            raise
    return refused


def _keep(inquiry: Inquiry, answer: Future[str], limit: int, store: JudgementStore) -> None:
    text = answer.result()
    if not store.knows(inquiry.digest, limit):
        store.add(
            Judgement(
                digest=inquiry.digest,
                question_id=inquiry.question_id,
                turn=inquiry.turn,
                prompt=inquiry.prompt,
                text=text,
                max_tokens=limit,
                finished_at=time.time(),
            )
        )

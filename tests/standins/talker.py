"""A child that talks: what it is asked to do is the request's only key."""

import os
import time

from npuscope.backends.conversation import serve
from npuscope.errors import MeasurementError, UnavailableError, UsageError


def main(arguments):
    return serve(arguments, answer)


def answer(request):
    (word,) = request
    print("this goes to nobody", flush=True)
    if word == "hang":
        time.sleep(600)
    if word == "die":
        os._exit(7)
    if word == "abort":
        print("last words", flush=True)
        os.abort()
    if word == "raise":
        raise RuntimeError("not foreseen")
    if word == "close":
        os.closerange(3, 100)
        time.sleep(600)
    if word == "usage":
        raise UsageError("wrong use")
    if word == "measurement":
        raise MeasurementError("cannot be measured")
    if word == "missing":
        raise UnavailableError("device x", missing="it lacks a part", remedy="buy one")
    return {"echo": request[word]}

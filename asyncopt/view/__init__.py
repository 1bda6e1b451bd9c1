"""The live page's server: runs in a folder, followed and steered from a browser of this machine.

- ``GET /?token=TOKEN``: the page; it sets the cookie that everything else asks for. ``GET /assets/NAME``: its assets.
- ``GET /api/runs``: ``[{"id", "name", "task", "optimizer", "state", "started"}]``, the newest first.
- ``GET /api/runs/ID``: the run's document (:func:`asyncopt.pages.document`).
- ``GET /api/runs/ID/events``: Server-Sent Events. ``document`` has the whole document at first, then ``change`` an
  object with those of its top-level values that are different now; ``status`` is what its controls say, or null.
- ``GET /api/runs/ID/answers?candidate=STEP.INDEX``: how its examples ended, with what was asked.
- ``POST /api/runs/ID/control`` with a request of :mod:`asyncopt.ctl` as ``application/json``: its answer. An error is
  ``{"error": "..."}``, with 409 where the run is not running.

No HTML is made from anything that a run holds, and no path is taken from a URL.
"""

from asyncopt.view.server import viewing

__all__ = ["viewing"]

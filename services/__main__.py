"""`python -m services`: the control process alone. For people there is `mesh control`."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from mesh.errors import MeshError
from mesh.runtime import Process, report, run
from services.control import DEFAULT_GRACE, ControlOptions, run_control
from services.forwarding.options import targets
from services.metrics.alerts.receivers import default_receivers
from services.retention import retention


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--store", default="", metavar="URL")
    parser.add_argument("--telemetry-store", default="", metavar="URL|off")
    parser.add_argument("--grace", type=float, default=DEFAULT_GRACE, metavar="SECONDS")
    parser.add_argument("--config-key-file", type=Path, metavar="FILE", help="keys for secrets, one a line")
    parser.add_argument("--http", default="", metavar="HOST:PORT", help="Prometheus' HTTP API")
    parser.add_argument("--forward", action="append", metavar="URL", help="a collector that telemetry is sent on to")
    parser.add_argument("--keep", action="append", metavar="NAME=VALUE", help="how long telemetry is kept")
    parser.add_argument("--ready-fd", type=int, help="gets one line of JSON when ready")
    parser.add_argument("--lifeline-fd", type=int, help="a pipe whose end stops the process")
    parser.add_argument("--debug", action="store_true", help="show the trace of an error")
    args = parser.parse_args()
    try:
        options = ControlOptions(
            listen=args.listen,
            data_dir=args.data_dir,
            store=args.store,
            telemetry_store=args.telemetry_store,
            grace=args.grace,
            config_key_file=args.config_key_file,
            http=args.http,
            receivers=default_receivers(),
            forward=targets(args.forward or ()),
            keep=retention(args.keep or ()),
        )
    except MeshError as error:
        return report(error, debug=args.debug)
    process = Process(ready_fd=args.ready_fd, lifeline_fd=args.lifeline_fd, debug=args.debug)
    return run(partial(run_control, options), process)


if __name__ == "__main__":
    sys.exit(main())

"""Outputter of the runner `mrvpn`: tables and colours for people; `--out json` and the others are Salt's own.

Knows: the terminal. Must not know: what is shown (mrvpn_master.shown).
"""

import shutil

try:
    from mrvpn_master import shown
except ImportError as error:
    MISSING = str(error)
else:
    MISSING = None

NARROWEST, UNKNOWN = 100, 160  # columns: tables stay whole in a narrow terminal, and in a file


def __virtual__():
    return True if MISSING is None else (False, f"the package mrvpn is not installed: {MISSING}")


def output(data, **kwargs):
    """
    The answer as text.

    CLI Example:

    .. code-block:: bash

        salt-run mrvpn.status
    """
    columns = shutil.get_terminal_size((UNKNOWN, 24)).columns
    return shown.text(data, width=max(columns, NARROWEST), colour=bool(__opts__.get("color")))

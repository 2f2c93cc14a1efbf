# SPDX-License-Identifier: Apache-2.0
"""Makes the data source of the demo, unless it is there."""

import sqlite3

with sqlite3.connect("/var/lib/campus/campus.sqlite") as campus:
    campus.execute(
        "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, login TEXT)"
    )
    campus.executemany(
        "INSERT OR IGNORE INTO users VALUES (?, ?)",
        [(1, "hlefevre"), (2, "jmuller"), (3, "nokafor")],
    )

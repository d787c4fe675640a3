"""What papers report. This folder is installed as `kdbench.reported`; `kdbench.board.reported` reads it."""

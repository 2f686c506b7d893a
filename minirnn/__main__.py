"""``python -m minirnn``: the command line."""

from minirnn_cli.main import app

app(prog_name="minirnn")

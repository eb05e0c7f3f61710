"""All tests, in the order in which they run."""

import importlib
import sys

import harness

for module in ["curl", "raw", "vectors", "node", "nginx", "python", "sockets", "models", "fronts", "tls", "readme", "endings"]:
    importlib.import_module(module)

sys.exit(harness.main(sys.argv[1:]))

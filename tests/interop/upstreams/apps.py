"""Applications that hold a stream open and send requests beside it: `apps.py gradio|mcp PORT`."""

import sys
import time


def with_gradio(port):
    import gradio

    def greet(name):
        for length in range(1, 4):
            time.sleep(0.05)
            yield f"{'hello ' * length}{name}"

    with gradio.Blocks() as blocks:
        name, said = gradio.Textbox(), gradio.Textbox()
        gradio.Button("Greet").click(greet, name, said, api_name="greet")
    blocks.launch(server_name="127.0.0.1", server_port=port, quiet=True, prevent_thread_lock=True)
    print(f"listening on {port}", flush=True)
    blocks.block_thread()


def with_mcp(port):
    from mcp.server import MCPServer

    server = MCPServer("interop")

    @server.tool()
    def add(one: int, other: int) -> int:
        return one + other

    # uvicorn says when it listens: running on http://127.0.0.1:PORT
    server.run("streamable-http", host="127.0.0.1", port=port)


{"gradio": with_gradio, "mcp": with_mcp}[sys.argv[1]](int(sys.argv[2]))

"""ComfyUI entry point of the BFR face-restoration pack.

Nothing is imported here: a broken or absent host must not keep the library, the tests or other packs from loading.
"""

WEB_DIRECTORY = "./web"
"""Help pages, and what the page cannot be told otherwise. The host serves it; nothing else names it."""


async def comfy_entrypoint():
    """Return the extension that ComfyUI asks for."""
    import logging

    try:
        from .nodes import BfrExtension
    except Exception:
        # The host logs one line without a traceback; people who report a problem need the traceback.
        logging.exception("The BFR face-restoration pack could not be loaded")
        raise
    return BfrExtension()

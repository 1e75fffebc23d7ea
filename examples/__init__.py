"""Programs that use Stillhouse as anybody would: over HTTP."""

"""The prefix tree of KV pages: branches and steps."""

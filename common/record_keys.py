"""What the keys of the JSON files of every run folder mean; `docs/runs.md` is made from here."""

CONFIG_JSON = {
    "config": "everything that changes the numbers: settings, data, device, and a hash of each source file",
    "arguments": "the command line as parsed, which `--from-config` repeats",
    "differs": "what of it is not the default",
    "command": "the command as typed from the repository's root",
    "date": "when the folder was made, UTC",
    "device": "cpu, cuda or mps",
    "versions": "of Python and of the packages that numbers depend on",
    "git_commit": "of this checkout; null where it is none",
    "git_dirty": "whether files differed from that commit; null where git does not say",
    "system": "operating system and architecture",
    "processor": "its name",
    "cores": "that the process might use",
    "crc32": "checksum of the rest of this file; plan.json, anchors.json and the cells have one too",
}
SUMMARY_JSON = {
    "status": "ok or diverged; the file itself is the mark of a finished run",
    "headline": "what was found, in a sentence",
}

"""Drawing of labels in the browser: masks on the wire, drafts, live SAM, and the labels that are saved."""

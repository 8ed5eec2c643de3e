"""The arms of the study: runs made in another way than the sweep's, and what that changes of its laws."""

"""What happened and why: the commands that look after an outbox and send from it."""

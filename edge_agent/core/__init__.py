"""Pure decisions: facts and instants go in, values come out; nothing here reads a clock, a file or a socket."""

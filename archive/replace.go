package archive

import (
	"fmt"
	"io"
	"os"
)

// Replace is how Get puts a file at its destination, for who has it written by
// another process: fill writes a temporary file beside dest, which is made durable
// and renamed over dest. On failure dest is as it was and nothing is left.
func Replace(dest string, fill func(*os.File) error) error {
	return replace(dest, func(w io.Writer) error {
		file, ok := w.(*os.File)
		if !ok {
			return fmt.Errorf("write %s: not to a file", dest)
		}
		return fill(file)
	})
}

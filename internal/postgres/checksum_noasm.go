//go:build !amd64

package postgres

// sumPage is [sumPageGo] where there is no vector code for the architecture.
func sumPage(page []byte) uint32 { return sumPageGo(page) }

package limit

import (
	"fmt"
	"regexp"
	"strconv"
)

// The ranges of what a user may set. Less would look like a server that hangs.
const (
	leastBytes    = 1 << 10 // per second
	mostBytes     = 1 << 40
	leastRequests = 0.1 // per second
	mostRequests  = 1e6
)

// Parse reads a bandwidth such as "50MiB/s", "512KiB/s", "1.5GiB/s" or
// "10MB/s", and gives bytes per second. Units with an i are powers of 1024,
// those without of 1000. It takes 1KiB/s to 1TiB/s.
func Parse(s string) (int64, error) {
	m := regexp.MustCompile(`^([0-9]{1,9}(?:\.[0-9]{1,3})?)(B|KB|kB|MB|GB|KiB|MiB|GiB)/s$`).FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%.40q is not a bandwidth like 50MiB/s or 10MB/s", s)
	}
	unit := map[string]float64{
		"B": 1, "KB": 1e3, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
	}[m[2]]
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil || n*unit < leastBytes || n*unit > mostBytes {
		return 0, fmt.Errorf("%.40q is not between 1KiB/s and 1024GiB/s", s)
	}
	return int64(n * unit), nil
}

// ParseRequests reads a number of operations per second such as "100/s" or
// "0.5/s". It takes 0.1/s to 1000000/s.
func ParseRequests(s string) (float64, error) {
	m := regexp.MustCompile(`^([0-9]{1,9}(?:\.[0-9]{1,3})?)/s$`).FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%.40q is not a number of requests like 100/s", s)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil || n < leastRequests || n > mostRequests {
		return 0, fmt.Errorf("%.40q is not between 0.1/s and 1000000/s", s)
	}
	return n, nil
}

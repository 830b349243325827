package main

import (
	"fmt"
	"regexp"
	"strconv"
)

// rateLimits stands in for those of storage/limit.
type rateLimits struct {
	Upload, Download int64
	Requests         float64
}

var byteRate = regexp.MustCompile(`^([1-9][0-9]{0,5})(KiB|MiB|GiB|KB|MB|GB)/s$`)

func parseRate(text string) (int64, error) {
	m := byteRate.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%q is not a rate like 50MiB/s", text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	return n * map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "KB": 1e3, "MB": 1e6, "GB": 1e9}[m[2]], err
}

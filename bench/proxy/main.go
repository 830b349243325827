// Command proxy stands between a client and a server and makes the way between
// them longer: bench/run.sh measures with it what the distance to the storage
// costs.
//
//	proxy -listen ADDRESS -to ADDRESS -round-trip DURATION
//
// It passes on bytes, whatever they are, TLS included: nothing is decrypted, so
// it takes next to no CPU time from what is measured. It ends by a signal. A
// listener that could not be had is said on standard error.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "`ADDRESS` for clients")
	to := flag.String("to", "", "`ADDRESS` of the server")
	trip := flag.Duration("round-trip", 0, "`DURATION` that a round trip takes longer")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, "proxy:", err)
		return
	}
	proxy{to: *to, trip: *trip}.serve(ctx, listener)
}

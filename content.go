package apexproxy

import "net/http"

type capture struct{}

func (c *capture) request(b []byte)                 {}
func (c *capture) response(h http.Header, b []byte) {}

"""fallback by lead: to be replaced by H3's fast tracer (same interface)"""
from typing import NamedTuple
import numpy as np, pandas as pd, torch
from prunelib.errors import PrunelibError
from prunelib.hooks import visited

class TraceTables(NamedTuple):
    h: pd.DataFrame
    z: pd.DataFrame
    p: pd.DataFrame

def sublayer_states(lm, input_ids, attention_mask, position_mask, sublayers=("attn","mlp"), layers=None):
    out=[]
    par=lm.arch.is_parallel
    pts=("resid_post","attn_out","mlp_out") if par else ("resid_pre","resid_mid","resid_post")
    def visit(layer, v):
        v={k:x[position_mask] for k,x in v.items()}
        for s in sublayers:
            if par: d=v["resid_post"]; q=d-v[s+"_out"]
            else: d,q=(v["resid_mid"],v["resid_pre"]) if s=="attn" else (v["resid_post"],v["resid_mid"])
            out.append((s,layer,d,q))
    pos=(attention_mask.cumsum(-1)-1).clamp(min=0)
    with torch.no_grad(), visited(lm,pts,visit,layers):
        lm.model(input_ids=input_ids,attention_mask=attention_mask,position_ids=pos,use_cache=False,logits_to_keep=1)
    return out

def trace_layers(lm, input_ids, attention_mask, position_mask, sublayers=("attn","mlp"), layers=None, lenses=("raw","normed"), temperatures=(1.0,), max_bytes=2**28):
    rows,pos=position_mask.nonzero(as_tuple=True)
    idx={"row":rows.cpu().numpy(),"position":pos.cpu().numpy()}
    H,Z,P=[],[],[]
    for s,layer,d,q in sublayer_states(lm,input_ids,attention_mask,position_mask,sublayers,layers):
        base={**idx,"layer":layer,"sublayer":s}
        f=lambda a,b:_dev(a.double(),b.double())
        om,al,be=f(d,q)
        H.append(pd.DataFrame({**base,"one_minus_cos_h":om,"alpha_h":al,"beta_h":be,"norm_h":d.double().norm(dim=-1).numpy()}))
        for lens in lenses:
            zd,zq=lm.unembed(d,lens),lm.unembed(q,lens)
            om,al,be=f(zd,zq); dz=(zq-zd)
            c=lambda z:z-z.mean(-1,keepdim=True)
            omc=f(c(zd),c(zq))[0]
            Z.append(pd.DataFrame({**base,"lens":lens,"one_minus_cos_z":om,"one_minus_cos_z_centred":omc,"alpha_z":al,"beta_z":be,"rms_dz":dz.square().mean(-1).sqrt().numpy(),"mean_dz":dz.mean(-1).numpy(),"norm_z":zd.norm(dim=-1).numpy(),"mean_z":zd.mean(-1).numpy()}))
            for T in (temperatures[lens] if isinstance(temperatures,dict) else temperatures):
                if not T>0: raise PrunelibError("temperature must be above 0")
                lp,lq=(zd/T).log_softmax(-1),(zq/T).log_softmax(-1); p,qq=lp.exp(),lq.exp(); r=p*p; r=r/r.sum(-1,keepdim=True)
                var=lambda w:((w*dz*dz).sum(-1)-(w*dz).sum(-1)**2).clamp(min=0).numpy()
                cos=(p*qq).sum(-1)/(p.norm(dim=-1)*qq.norm(dim=-1))
                P.append(pd.DataFrame({**base,"lens":lens,"temperature":float(T),"one_minus_cos_p":(1-cos).clamp(min=0).numpy(),"kl_dense_pruned":(p*(lp-lq)).sum(-1).clamp(min=0).numpy(),"kl_pruned_dense":(qq*(lq-lp)).sum(-1).clamp(min=0).numpy(),"var_r":var(r),"var_p":var(p),"var_q":var(qq),"range_dz":(dz.amax(-1)-dz.amin(-1)).numpy(),"entropy_dense":-(p*lp).sum(-1).numpy(),"pmax_dense":p.amax(-1).numpy(),"top1_same":(p.argmax(-1)==qq.argmax(-1)).numpy()}))
    return TraceTables(*(pd.concat(x,ignore_index=True) for x in (H,Z,P)))

def _dev(x,y):
    d=y-x; n=x.square().sum(-1); a=(d*x).sum(-1)/n; perp=d-a[...,None]*x; b=perp.norm(dim=-1)/n.sqrt()
    return ((1-(1+a)/torch.sqrt((1+a)**2+b**2)).numpy(),a.numpy(),b.numpy())
